"""Imaging quality: MUSIQ's score of each frame, trained on SPAQ's photographs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Array, Float, UInt8

from bvjax.lvbench.batching import Batcher
from bvjax.lvbench.metric import MetricContext
from bvjax.lvbench.nets import musiq
from bvjax.lvbench.nets.resize import resize
from bvjax.lvbench.official.consistency import FrameMetric, unit_weight

LONGER = 512  # pixels; larger frames are made smaller
WHOLE_SCALE = 100.0  # the scale of the network's scores, and of segments'


def clarity_input(frames: UInt8[Array, "b h w 3"]) -> Float[Array, "b H W 3"]:
    """0..1; bilinear without antialiasing to a longer side of at most 512, sizes rounded down.

    This is VBench's preprocessing `longer`.
    """
    height, width = frames.shape[1:3]
    if max(height, width) > LONGER:
        ratio = float(LONGER) / max(height, width)
        frames = resize(frames, (int(ratio * height), int(ratio * width)), "bilinear")
    return frames.astype(np.float32) / 255


def make(context: MetricContext) -> FrameMetric:
    """Needs `musiq_spaq`.  Means over frames: of segments on the network's scale, of whole videos in 0..1."""
    scores = lambda params, frames: musiq.musiq(params, clarity_input(frames))
    params = musiq.prepare(context.load("musiq_spaq"))
    batcher = Batcher(scores, params, context.options.batch, context.layout)
    mean = lambda scores_of_frames: float(np.mean(scores_of_frames, dtype=np.float64))
    return FrameMetric("official/clarity", {}, 1, batcher, mean, unit_weight, WHOLE_SCALE)
