"""Segment scores from one number per frame (or pair, or triple)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from bvjax.lvbench.metric import Measurement, Scores
from bvjax.lvbench.video import Block, Video

Numbers = Iterable[tuple[int, Any]]  # (t, a float or a `PendingResult` of one)


@dataclasses.dataclass(frozen=True)
class PaperMetric:
    """A metric of this suite: `start` begins on a video (see `lvbench.metric.Metric`)."""

    name: str
    settings: Mapping[str, Any]
    least_frames: int
    start: Callable[[Video, int], Measurement]

    def begin(self, video: Video, segments: int) -> Measurement:
        return self.start(video, segments)


class Series:
    """Keeps one number per frame.

    score: the numbers of a block; NaN or left out where there is none.
    lag: how many earlier frames a number is made of; it counts where they are in the same segment.
    missing: what a segment without any number lacks, for the reason.
    """

    def __init__(
        self,
        video: Video,
        segments: int,
        score: Callable[[Block], Numbers],
        lag: int = 0,
        missing: str = "number",
    ):
        self._segments, self._score, self._lag, self._missing = segments, score, lag, missing
        self._numbers: list[Any] = [np.nan] * video.frames

    def add(self, block: Block) -> None:
        for t, number in self._score(block):
            self._numbers[t] = number

    def scores(self) -> Scores:
        numbers = [n.value() if hasattr(n, "value") else n for n in self._numbers]
        chunks = means(np.array(numbers, np.float64), self._segments, self._lag)
        return Scores(tuple(chunks.tolist()), reason=missing_reason(chunks, self._missing))


def means(numbers: Float[np.ndarray, "t"], segments: int, lag: int = 0) -> Float[np.ndarray, "n"]:
    """m_i: mean over the numbers of each segment that reach back no further than its start.

    Segments are equal and contiguous, trailing frames are dropped; NaNs are left out, and a segment
    of nothing else is NaN.
    """
    length = len(numbers) // segments
    segment_values = numbers[: length * segments].reshape(segments, length)[:, lag:]
    counts = np.isfinite(segment_values).sum(axis=1)
    totals = np.nansum(segment_values, axis=1)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def missing_reason(chunks: Sequence[float] | np.ndarray, noun: str) -> str:
    """A sentence that names the segments without a score; empty where all have one."""
    missing_chunks = [str(i) for i, chunk in enumerate(chunks, start=1) if np.isnan(chunk)]
    if not missing_chunks:
        return ""
    return f"no {noun} in chunk{'s' if len(missing_chunks) > 1 else ''} {', '.join(missing_chunks)}"
