"""VBench's consistency of features over frames, and metrics that keep one vector per frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from bvjax.lvbench.batching import Batcher, PendingResult
from bvjax.lvbench.metric import Scores
from bvjax.lvbench.video import Block, Video


def consistency(features: Float[np.ndarray, "t d"]) -> float:
    """Mean over t >= 1 of (max(0, cos(f_t, f_t-1)) + max(0, cos(f_t, f_0))) / 2; needs 2 frames.

    This is the subject and the background consistency of VBench (Huang et al. 2024), there over a
    whole video, in the published LV-Bench over a segment.  Float64; a zero vector is like nothing.
    """
    features = np.asarray(features, np.float64)
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    before = np.einsum("td,td->t", unit[1:], unit[:-1])
    first = unit[1:] @ unit[0]
    return float(np.mean((np.maximum(before, 0) + np.maximum(first, 0)) / 2))


def pair_weight(frames: int) -> int:
    """Terms of `consistency`: VBench weighs a video by them."""
    return frames - 1


def unit_weight(frames: int) -> int:
    """The weight of a video where VBench's mean is plain."""
    return 1


@dataclasses.dataclass(frozen=True)
class FrameMetric:
    """A metric of one vector (or number) per frame.

    score: vectors [t, ...] of a segment, or of the whole video, to its score.
    weight_of: frames of a video to the weight of its whole score. whole_scale: divisor of
    whole scores, where they are published on another scale than those of segments.
    """

    name: str
    settings: Mapping[str, Any]
    least_frames: int
    batcher: Batcher
    score: Callable[[np.ndarray], float]
    weight_of: Callable[[int], int]
    whole_scale: float = 1.0

    def begin(self, video: Video, segments: int) -> FrameMeasurement:
        return FrameMeasurement(self, segments)


class FrameMeasurement:
    """The pending network outputs of the frames added so far."""

    def __init__(self, metric: FrameMetric, segments: int):
        self._metric, self._segments = metric, segments
        self._pending: list[PendingResult] = []

    def add(self, block: Block) -> None:
        self._pending += [self._metric.batcher.submit(frame) for frame in block.frames]

    def scores(self) -> Scores:
        features = np.stack([pending.value() for pending in self._pending])
        length = len(features) // self._segments
        segments_of_features = [
            features[i * length : (i + 1) * length] for i in range(self._segments)
        ]
        return Scores(
            chunks=tuple(self._metric.score(segment) for segment in segments_of_features),
            whole=self._metric.score(features) / self._metric.whole_scale,
            weight=self._metric.weight_of(len(features)),
        )
