"""Frames on which the published PyTorch MUSIQ was run; its scores lie in metric_musiq.npz.

Its weights are those of `metric_recipe` in the published sizes.
"""

from __future__ import annotations

import pathlib

import numpy as np
from jaxtyping import UInt8

from tests.golden import recipe

FILE = pathlib.Path(__file__).with_name("metric_musiq.npz")
NET = "musiq_spaq"
# Enlarged to both scales; larger than clarity's 512, in all ways not a multiple of 32; upright.
SIZES = ((96, 160), (301, 540), (150, 70))
CELL = 12  # pixels


def frame(height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Coloured cells with noise on one half of the picture."""
    name = f"{NET}/{height}x{width}"
    cells = recipe.uniform(f"{name}/cells", (-(-height // CELL), -(-width // CELL), 3))
    picture = np.float64(cells).repeat(CELL, 0).repeat(CELL, 1)[:height, :width]
    picture[:, : width // 2] += 0.7 * np.float64(
        recipe.uniform(f"{name}/noise", (height, width, 3))[:, : width // 2]
    )
    return np.uint8((128 + 60 * picture).clip(0, 255))
