"""Background with the camera's motion taken away (Eq. 24 with u_t minus a fitted camera).

Where the camera moves, nothing of the background stands still and Eq. 24 divides by 0; what is left
of the flow after one similarity per pair is 0 on a rigid background, however it is filmed.
"""

from __future__ import annotations

from bvjax.lvbench.metric import MetricContext
from bvjax.lvbench.paper.background import background_metric
from bvjax.lvbench.paper.measuring import PaperMetric
from bvjax.lvbench.paper.scene import Detector


def make(context: MetricContext, detector: Detector | None = None) -> PaperMetric:
    return background_metric(context, "paper/background_compensated", True, detector)
