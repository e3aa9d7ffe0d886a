"""Motion smoothness: the score s_t from inter-frame differences that Eq. 21 offers instead."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
from jaxtyping import UInt8

from bvjax.lvbench.metric import MetricContext
from bvjax.lvbench.paper.measuring import Numbers, PaperMetric, Series
from bvjax.lvbench.video import Block

Frame = UInt8[np.ndarray, "h w 3"]


def make(context: MetricContext) -> PaperMetric:
    start = lambda video, segments: Series(video, segments, _Triples(), lag=2)
    return PaperMetric("paper/motion_smoothness", {}, 3, start)


class _Triples:
    """s_t of each frame with both neighbours; it is computed at the later one, t + 1."""

    def __init__(self):
        self._last: deque[Frame] = deque(maxlen=2)

    def __call__(self, block: Block) -> Numbers:
        for t, frame in enumerate(block.frames, start=block.first):
            if len(self._last) == 2:
                yield t, smoothness(*self._last, frame)
            self._last.append(frame)


def smoothness(before: Frame, frame: Frame, after: Frame) -> float:
    """s_t = 1 - mean |f_t - (f_{t-1} + f_{t+1}) / 2| / 255, over pixels and RGB; 0..1.

    The paper gives no formula.  This is the complementary metric's (VBench's motion smoothness:
    1 - mean |frame - frame predicted from its neighbours| / 255), with the mean of the neighbours in
    place of a network's prediction, and at every frame instead of every second.  Jitter, flicker
    and cuts lower it, freezing raises it to 1.  Fast even motion of fine texture lowers it too,
    because a mean of two frames does not follow motion.
    """
    neighbours = cv2.add(before, after, dtype=cv2.CV_16U)
    twice = cv2.add(frame, frame, dtype=cv2.CV_16U)
    return 1.0 - cv2.norm(neighbours, twice, cv2.NORM_L1) / (2 * 255 * frame.size)
