"""Background: the share of background pixels that stand still (Eq. 24)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from bvjax.lvbench.metric import MetricContext
from bvjax.lvbench.paper import camera
from bvjax.lvbench.paper.flow import FlowMethod, flow_method, flow_settings
from bvjax.lvbench.paper.measuring import Numbers, PaperMetric, Series
from bvjax.lvbench.paper.scene import EDGE, MARGIN, Detector, Scene, scene_of
from bvjax.lvbench.video import Block, Video


def make(context: MetricContext, detector: Detector | None = None) -> PaperMetric:
    """Makes the metric as the equation defines it: with a moving camera, m_1 can be 0."""
    return background_metric(context, "paper/background", False, detector)


def background_metric(
    context: MetricContext, name: str, compensated: bool, detector: Detector | None = None
) -> PaperMetric:
    """The metric with or without the camera's motion taken from the flow."""
    flow, static = flow_method(context), context.options.static

    def start(video: Video, segments: int) -> Series:
        scene = functools.partial(scene_of, video=video, detector=detector)
        tau = static * min(video.height, video.width) / 480
        numbers = functools.partial(_numbers, flow, scene, tau, compensated)
        missing = "background with texture"
        return Series(video, segments, numbers, lag=1, missing=missing)

    settings = flow_settings(flow.name) | {"static": static, "margin": [MARGIN, EDGE]}
    settings["detector"] = detector.name if detector else "salient"
    if compensated:
        settings["camera"] = {
            "model": "similarity",
            "error": camera.RANSAC_ERROR,
            "step": camera.GRID_STEP,
        }
    return PaperMetric(name, settings, 2, start)


def _numbers(
    flow: FlowMethod, scene: Callable[[Block], Scene], tau: float, compensated: bool, block: Block
) -> Numbers:
    block_flow = flow(block)
    field = (
        block_flow.field - camera.camera_motion(flow, block) if compensated else block_flow.field
    )
    phi = staticness(field, scene(block).background(block) & block_flow.textured, tau)
    return enumerate(phi.tolist(), start=block_flow.first)


def staticness(
    field: Float[np.ndarray, "p h w 2"], mask: Bool[np.ndarray, "p h w"], tau: float
) -> Float[np.ndarray, "p"]:
    """phi_t: share of the mask's pixels x with ||u_t(x)|| <= tau; NaN where the mask is empty."""
    is_static = np.einsum("phwc,phwc->phw", field, field) <= tau**2
    mask_pixels = mask.sum(axis=(1, 2))
    return np.where(
        mask_pixels > 0, (is_static & mask).sum(axis=(1, 2)) / np.maximum(mask_pixels, 1), np.nan
    )
