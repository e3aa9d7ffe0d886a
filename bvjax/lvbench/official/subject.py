"""Subject consistency: do DINO's features of whole frames stay the same?"""

from __future__ import annotations

from bvjax.lvbench.batching import Batcher
from bvjax.lvbench.metric import MetricContext
from bvjax.lvbench.nets import dino
from bvjax.lvbench.official import preprocess
from bvjax.lvbench.official.consistency import FrameMetric, consistency, pair_weight


def make(context: MetricContext) -> FrameMetric:
    """Needs `dino_vitb16`."""
    features = lambda params, frames: dino.dino(params, preprocess.dino_input(frames))
    params = dino.prepare(context.load("dino_vitb16"))
    batcher = Batcher(features, params, context.options.batch, context.layout)
    return FrameMetric("official/subject", {}, 2, batcher, consistency, pair_weight)
