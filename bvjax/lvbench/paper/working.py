"""Smaller pictures of a block's frames, made once for all metrics that look at no fine detail."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from bvjax.lvbench.video import Block

SHORT = 240  # pixels: the shorter side of a working picture; a smaller video is taken as it is


def working_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of working pictures."""
    scale = min(1.0, SHORT / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def shrink(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A frame as a working picture: means over areas."""
    height, width = working_size(*frame.shape[:2])
    if (height, width) == frame.shape[:2]:
        return frame
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def small(block: Block) -> list[UInt8[np.ndarray, "h2 w2 3"]]:
    """Working pictures of the block's frames, the one before them first where there is one."""

    def make():
        before = [] if block.previous is None else [block.previous]
        return [shrink(frame) for frame in (*before, *block.frames)]

    return block.cached("paper/small", make)


def small_luma(block: Block) -> list[UInt8[np.ndarray, "h2 w2"]]:
    """Luminance (BT.601, rounded) of `small`."""
    make = lambda: [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in small(block)]
    return block.cached("paper/small luma", make)


def first_pair(block: Block) -> int:
    """Index t of the first pair (t - 1, t) that `small` has both pictures of."""
    return block.first + (block.previous is None)
