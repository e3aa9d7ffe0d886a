"""Background consistency: do CLIP's features of whole frames stay the same?"""

from __future__ import annotations

from bvjax.lvbench.batching import Batcher
from bvjax.lvbench.metric import MetricContext
from bvjax.lvbench.nets import clip_vision
from bvjax.lvbench.official import preprocess
from bvjax.lvbench.official.consistency import FrameMetric, consistency, pair_weight


def make(context: MetricContext) -> FrameMetric:
    """Needs `clip_vit_b32`; in float32, where the evaluator has float16 on a GPU."""
    features = lambda params, frames: clip_vision.clip(params, preprocess.clip_input(frames))
    params = clip_vision.prepare(context.load("clip_vit_b32"))
    batcher = Batcher(features, params, context.options.batch, context.layout)
    return FrameMetric("official/background", {}, 2, batcher, consistency, pair_weight)
