"""Aesthetic quality: LAION's score of each frame, by CLIP's ViT-L/14."""

from __future__ import annotations

import numpy as np

from bvjax.lvbench.batching import Batcher
from bvjax.lvbench.metric import MetricContext
from bvjax.lvbench.nets import clip_vision
from bvjax.lvbench.official import preprocess
from bvjax.lvbench.official.consistency import FrameMetric, unit_weight


def laion_scores(context: MetricContext) -> Batcher:
    """Frames [h, w, 3] uint8 to LAION's scores of them; needs `clip_vit_l14`, `laion_aesthetic`."""

    def scores(params, frames):
        features = clip_vision.clip(params["tower"], preprocess.clip_input(frames))
        return clip_vision.aesthetic(params["head"], features)

    params = {
        "tower": clip_vision.prepare(context.load("clip_vit_l14")),
        "head": clip_vision.prepare_head(context.load("laion_aesthetic")),
    }
    return Batcher(scores, params, context.options.batch, context.layout)


def make(context: MetricContext) -> FrameMetric:
    """A tenth of the mean score, so that most videos lie between 0 and 1."""
    score = lambda scores: float(np.mean(scores, dtype=np.float64)) / 10
    return FrameMetric("official/aesthetic", {}, 1, laion_scores(context), score, unit_weight)
