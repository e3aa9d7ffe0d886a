"""Clarity: how sharp the frames are (Eq. 20)."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from bvjax.lvbench.metric import MetricContext
from bvjax.lvbench.paper.measuring import Numbers, PaperMetric, Series
from bvjax.lvbench.video import Block


def make(context: MetricContext) -> PaperMetric:
    missing = "frame of at least 3 x 3 pixels"
    start = lambda video, segments: Series(video, segments, _numbers, missing=missing)
    return PaperMetric("paper/clarity", {}, 1, start)


def _numbers(block: Block) -> Numbers:
    return ((t, sharpness(frame)) for t, frame in enumerate(block.frames, start=block.first))


def sharpness(frame: UInt8[np.ndarray, "h w 3"]) -> float:
    """Var(Laplacian(Y)) inside the border, squared grey levels: `lvbench.clarity.clarity`, fast.

    Luminance is not rounded: rounding alone would add 20 / 12 squared grey levels.  A frame of
    fewer than 3 x 3 pixels has no inside and gives NaN.
    """
    if min(frame.shape[:2]) < 3:
        return float("nan")
    luma = cv2.cvtColor(frame.astype(np.float32), cv2.COLOR_RGB2GRAY)
    inside = cv2.Laplacian(luma, cv2.CV_32F, ksize=1)[1:-1, 1:-1]
    return float(cv2.meanStdDev(inside)[1].item() ** 2)
