"""Subject: how much the subject looks like itself in the first segment (Eq. 25)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from bvjax.lvbench.metric import MetricContext, Scores
from bvjax.lvbench.paper.identity import Encoder, encoder_of
from bvjax.lvbench.paper.measuring import PaperMetric, means, missing_reason
from bvjax.lvbench.paper.scene import Detector, scene_of
from bvjax.lvbench.video import Block, Video

MIN_VISIBLE_SHARE = 0.25  # share of a box that must be in the frame
MIN_CROP_SIDE = 4  # pixels a side of a crop


def make(
    context: MetricContext, detector: Detector | None = None, encoder: Encoder | None = None
) -> PaperMetric:
    """Detector: the ground truth's boxes, else this one (by default the most salient region)."""
    encoder = encoder or encoder_of(context)

    def start(video: Video, segments: int) -> _Identity:
        return _Identity(video, segments, detector, encoder)

    settings = {**encoder.settings, "detector": detector.name if detector else "salient"}
    return PaperMetric("paper/subject", settings, 1, start)


class _Identity:
    def __init__(self, video: Video, segments: int, detector: Detector | None, encoder: Encoder):
        self._video, self._segments = video, segments
        self._detector, self._encoder = detector, encoder
        self._vectors: dict[int, Any] = {}  # by frame, where there is a subject

    def add(self, block: Block) -> None:
        boxes = scene_of(block, self._video, self._detector).boxes(block)
        for t, (frame, box) in enumerate(zip(block.frames, boxes, strict=True), start=block.first):
            if visible_box := visible_part(box, *frame.shape[:2]):
                self._vectors[t] = self._encoder.embed(frame, visible_box)

    def scores(self) -> Scores:
        vectors = {t: pending.value() for t, pending in self._vectors.items()}
        similarity = similarities(vectors, self._video.frames, self._segments)
        chunks = means(similarity, self._segments)
        reason = missing_reason(chunks, "subject found")
        if np.isnan(chunks).all():
            reason = "no subject found in the first chunk, so there is nothing to compare with"
        return Scores(tuple(chunks.tolist()), reason=reason)


def similarities(
    vectors: dict[int, Float[np.ndarray, "d"]], frames: int, segments: int
) -> Float[np.ndarray, "t"]:
    """s_t = cos(E(crop_t), mean of the unit vectors of S_1); NaN where frame t has no vector.

    All NaN when the first segment has none.
    """
    similarity = np.full(frames, np.nan)
    first = [v for t, v in vectors.items() if t < frames // segments]
    if not first:
        return similarity
    mean = np.mean(first, axis=0)
    mean = mean / max(np.linalg.norm(mean), 1e-12)
    for t, vector in vectors.items():
        similarity[t] = vector @ mean
    return similarity


def visible_part(
    box: Float[np.ndarray, "4"], height: int, width: int
) -> tuple[int, int, int, int] | None:
    """The part of a box inside the frame in whole pixels; None where that is too little."""
    if np.isnan(box).any():
        return None
    x0, y0 = np.maximum(np.floor(box[:2]), 0)
    x1, y1 = np.minimum(np.ceil(box[2:]), (width, height))
    area = max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
    if (
        x1 - x0 < MIN_CROP_SIDE
        or y1 - y0 < MIN_CROP_SIDE
        or (x1 - x0) * (y1 - y0) < MIN_VISIBLE_SHARE * area
    ):
        return None
    return int(x0), int(y0), int(x1), int(y1)
