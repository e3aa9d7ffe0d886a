"""What dino.npz holds; `make_dino.py` made it with the published classes.

The network is that of DINO with other sizes; one case keeps the published grid and patches, for the
positions of a 480p frame.
"""

from __future__ import annotations

import pathlib

import numpy as np

from bvjax.lvbench.nets import dino
from tests.golden import metric_recipe, recipe

FILE = pathlib.Path(__file__).parent / "dino.npz"
NET = "dino_vitb16"
SIZES = dict(width=24, layers=3, patch=4, grid=3)
HEADS = 3
# Pictures [height, width]: not square with patches left over, as trained, as many patches as
# trained but not square.
PICTURES = ((12, 22), (12, 12), (12, 13))
POSITIONS = dict(width=3, layers=0, patch=16, grid=14)
FRAME = (224, 398)


def tensors(**sizes: int) -> dict[str, np.ndarray]:
    """Published names to values; positions are as large as what they are added to."""
    drawn = metric_recipe.params(NET, dino.shapes(**sizes))
    return drawn | {"pos_embed": 10 * drawn["pos_embed"]}


def picture(size: tuple[int, int]) -> np.ndarray:
    return recipe.uniform(f"{NET}/{size}", (2, *size, 3))


def name(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
