"""The interface of metrics: a metric sees a video's frames once, in order, and scores each segment.

A metric of a suite is a `Metric`.  For each video it begins a `Measurement`, which gets the
frames block by block and stores only a few numbers per frame, so that memory does not grow with a
video's frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from bvjax.lvbench.video import Block, Video
from bvjax.sharding import Layout


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of one video by one metric.

    chunks: m_1 .. m_N of Eq. 16; NaN where a segment could not be measured.
    whole: the metric of the whole video as one, as VBench defines it for a video; None where it
    defines none.
    weight: how many terms `whole` is the mean of, where VBench's mean over videos weighs by it.
    reason: in one sentence, why numbers are missing; empty when none is.
    """

    chunks: tuple[float, ...]
    whole: float | None = None
    weight: int = 1
    reason: str = ""


class Measurement(Protocol):
    """A video being measured."""

    def add(self, block: Block) -> None:
        """Adds the next frames.  Dispatches device work without waiting for it."""

    def scores(self) -> Scores:
        """Returns the scores after the last block; waits for the device."""


class Metric(Protocol):
    """One metric, ready to measure any number of videos."""

    name: str  # "paper/clarity"
    settings: Mapping[str, Any]  # all that changes its scores, JSON values; part of the cache's key
    least_frames: int  # in a segment: shorter videos are refused before they are decoded

    def begin(self, video: Video, segments: int) -> Measurement:
        """Starts on a video."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of metrics.

    flow: "dis" (OpenCV's), "raft" (needs weights) or "lk" (bvjax's own Lucas-Kanade).
    static: tau of Eq. 24, pixels a frame at a shorter side of 480; scales with the video's size.
    subject: "histogram" or "dino" (needs weights): the identity encoder of Eq. 25.
    aesthetic: "handmade" (no weights), "laion" (needs weights) or MODULE:FUNCTION, a function of
    frames [f, h, w, 3] uint8 to scores [f].
    batch: frames (or pairs) a device gets at a time.
    """

    segments: int = 10
    flow: str = "dis"
    static: float = 1.0
    subject: str = "histogram"
    aesthetic: str = "handmade"
    batch: int = 8


@dataclasses.dataclass(frozen=True)
class MetricContext:
    """The inputs of a metric's `make`: options, devices, and weights by the names of `weights.FILES`."""

    options: Options
    layout: Layout
    load: Callable[[str], dict[str, np.ndarray]]
    _cache: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    def cached(self, key: str, build: Callable[[], Any]) -> Any:
        """Returns `build()`, computed once per `key` and shared by metrics."""
        if key not in self._cache:
            self._cache[key] = build()
        return self._cache[key]
