"""Motion: how much moves between neighbouring frames (Eq. 21, the flow's magnitude)."""

from __future__ import annotations

import numpy as np

from bvjax.lvbench.metric import MetricContext
from bvjax.lvbench.paper.flow import Flow, flow_method, flow_settings
from bvjax.lvbench.paper.measuring import Numbers, PaperMetric, Series


def make(context: MetricContext) -> PaperMetric:
    flow = flow_method(context)
    numbers = lambda block: energies(flow(block))
    start = lambda video, segments: Series(video, segments, numbers, lag=1)
    return PaperMetric("paper/motion", flow_settings(flow.name), 2, start)


def energies(flow: Flow) -> Numbers:
    """(t, E(u_t)): mean of ||u_t||_2 over pixels with texture, in pixels of the video a frame.

    A frame without texture shows no motion: 0.
    """
    for t, (field, textured) in enumerate(
        zip(flow.field, flow.textured, strict=True), start=flow.first
    ):
        length = np.sqrt(np.einsum("hwc,hwc->hw", field, field))
        yield t, float(length[textured].mean(dtype=np.float64)) if textured.any() else 0.0
