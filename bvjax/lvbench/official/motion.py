"""Motion smoothness: how well does AMT-S guess every second frame from its neighbours?"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from bvjax.lvbench.batching import Batcher, PendingResult
from bvjax.lvbench.metric import MetricContext, Scores
from bvjax.lvbench.nets import amt, correlation
from bvjax.lvbench.nets.conv import crop_to, pad_to
from bvjax.lvbench.video import Block, Video

# What the evaluator computes at.  It would choose less for pictures that its GPU's memory does not
# hold, so that its scores depend on the machine; on a CPU, and for 480p wherever it runs, it is 1.
SCALE = 1
FRAMES_PER_PAIR = (
    8  # frames that a pair counts for in a batch: correlations of all with all take memory
)


def make(context: MetricContext) -> MotionMetric:
    """Needs `amt_s`."""
    params = amt.prepare(context.load("amt_s"))
    size = max(1, context.options.batch // FRAMES_PER_PAIR)
    return MotionMetric(Batcher(differences, params, size, context.layout))


def differences(
    params: Mapping[str, Array],
    first: UInt8[Array, "b h w 3"],
    second: UInt8[Array, "b h w 3"],
    between: UInt8[Array, "b h w 3"],
) -> Int[Array, "b h"]:
    """Sums per row of |guess - frame between|, of whole grey levels that are rounded down."""
    pair = (pad_to(x, amt.MULTIPLE) / 255.0 for x in (first, second))
    guess = crop_to(amt.interpolate(params, *pair), first.shape[1:3])
    guess = jnp.clip(guess * 255.0, 0, 255).astype(jnp.uint8).astype(jnp.int32)
    return jnp.abs(guess - between.astype(jnp.int32)).sum((2, 3))


def smoothness(means: Iterable[float]) -> float:
    """(255 - mean |guess - frame|) / 255 of the guessed frames' means; NaN of none."""
    means = list(means)
    return float((255.0 - np.mean(means)) / 255.0) if means else float("nan")


def starts(first: int, frames: int) -> range:
    """First frames of the triples of a stretch of video: each second frame is guessed once.

    Frames 0, 2, 4 ... of the stretch are what guesses are made from; one more at its end is in no
    triple.
    """
    return range(first, first + frames - 2, 2)


@dataclasses.dataclass(frozen=True)
class MotionMetric:
    """The published motion smoothness."""

    batcher: Batcher
    name: str = "official/motion"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"scale": SCALE})
    least_frames: int = 3

    def begin(self, video: Video, segments: int) -> MotionMeasurement:
        correlation.check_size("AMT", video.height, video.width, volumes=2)
        return MotionMeasurement(self.batcher, video.frames, segments)


class MotionMeasurement:
    """Triples of a video; where segments of odd length begin at odd frames, two kinds of them."""

    def __init__(self, batcher: Batcher, frames: int, segments: int):
        length = frames // segments
        self._whole_starts = starts(0, frames)
        self._chunks = [starts(i * length, length) for i in range(segments)]
        self._starts = {
            start
            for starts_of_part in (self._whole_starts, *self._chunks)
            for start in starts_of_part
        }
        self._recent: collections.deque[np.ndarray] = collections.deque(maxlen=3)
        self._batcher = batcher
        self._results: dict[int, tuple[PendingResult, int]] = {}

    def add(self, block: Block) -> None:
        for start, frame in enumerate(block.frames, block.first - 2):
            self._recent.append(frame)
            if start in self._starts:
                first, between, second = self._recent
                pending = self._batcher.submit(first, second, between)
                self._results[start] = (pending, frame.size)

    def scores(self) -> Scores:
        means = {start: pending.value().sum() / n for start, (pending, n) in self._results.items()}
        score = lambda starts_of_part: smoothness(means[start] for start in starts_of_part)
        return Scores(chunks=tuple(map(score, self._chunks)), whole=score(self._whole_starts))
