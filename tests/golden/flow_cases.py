"""What metric_amt.npz and metric_raft.npz hold; `make_flow.py` made them with the published classes.

Both networks have their published sizes.  With the recipe's weights alone RAFT's flows are a
hundred pixels and most of AMT's pixels black or white: the gains make it a few pixels of flow, and
pictures within their range.
"""

from __future__ import annotations

import pathlib

import numpy as np
from jaxtyping import Float, UInt8

from bvjax.lvbench.nets import amt, raft
from tests.golden import metric_recipe, recipe

AMT_FILE, RAFT_FILE = (
    pathlib.Path(__file__).with_name(f"metric_{name}.npz") for name in ("amt", "raft")
)
SIZE = (128, 144)  # below 128 the published networks divide by zero
EVERY = 5  # pixels: which ones of the results are kept
ITERATIONS = (1, 12)
GAINS = {
    "amt_s": {"flow_head.2.": 0.5, "decoder1.convblock.2.": 0.25, "comb_block.2.": 0.1},
    "raft_things": {"flow_head.conv2.": 0.1},
}


def frames() -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]]:
    """Coloured cells that move by (3, 1) pixels, with a square of others in front that stays."""
    height, width = SIZE
    cells = recipe.uniform("flow/cells", (height // 8 + 2, width // 8 + 2, 3))
    ground = np.uint8((128 + 60 * np.float64(cells)).clip(0, 255)).repeat(8, 0).repeat(8, 1)
    pictures = [ground[i : i + height, 3 * i : 3 * i + width].copy() for i in (1, 0)]
    for picture in pictures:
        picture[40:72, 50:90] = 255 - ground[48:80, 8:48]
    return pictures[0], pictures[1]


def tensors(net: str) -> dict[str, Float[np.ndarray, "..."]]:
    """Published names to values."""
    if net == "amt_s":
        drawn = metric_recipe.params(net, amt.shapes(), metric_recipe.PRELU)
    else:
        drawn = metric_recipe.params(net, raft.shapes())
    for name in drawn:
        for part, gain in GAINS[net].items():
            if part in name:
                drawn[name] = np.float32(gain) * drawn[name]
    return drawn


def kept(result: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h2 w2 c"]:
    """What of a result is in the files."""
    return np.asarray(result, np.float32)[::EVERY, ::EVERY]
