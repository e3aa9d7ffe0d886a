"""Change points of a score along a video: the chunk that a person should look at.

The noise of a score is estimated from the curve itself, since it differs by orders of magnitude
between metrics and between videos.  Steps from chunk to chunk estimate it where the score is level,
and changes of these steps where it drifts steadily; a jump appears in at most two of them, so the
two largest are left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

MIN_RELATIVE_CHANGE = 1e-4  # of the largest score: less is rounding
MIN_RANGE_SHARE = 0.05  # of the range of all scores: a person need not look at less
ONSET_NOISE_FACTOR = 2.0  # times the noise, and
ONSET_SHARE = 0.1  # of the detected distance: scores beyond both belong to the change
# Median of |normal| times the spread of a difference, and of a difference of differences.
_STEP_SCALE, _CURVATURE_SCALE = 0.6745 * math.sqrt(2), 0.6745 * math.sqrt(6)


@dataclasses.dataclass(frozen=True)
class Movement:
    """The change point of a curve of scores; chunks count from 1 and are None where nothing moves.

    chunk: the first whose score leaves what was before it by much more than scores waver.
    before: median of the scores before it. after: its score.
    largest: the chunk with the largest step from the last known score. step: that step, signed.
    """

    chunk: int | None = None
    before: float | None = None
    after: float | None = None
    largest: int | None = None
    step: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def movement(chunks: Sequence[float]) -> Movement:
    """Finds the change point of a video's chunk scores; scores that are not finite are skipped.

    A score has moved when its distance from the median of all scores before it exceeds F times the
    noise's standard deviation, with F = 4 + 400 / N^2 for N scores, and `MIN_RANGE_SHARE` of the
    whole range.  A slow change may be detected late; its onset is then searched backwards, through
    scores that are `ONSET_NOISE_FACTOR` times the noise and `ONSET_SHARE` of the distance away on
    the same side.

    The fewer scores, the larger F: 8 for ten, 48 for three.  For curves of independent normal noise
    the false positive rate is about one in fifteen (one in nine for four or five scores); in three
    or four scores only a jump with hardly any noise beside it is detected.
    """
    scores = np.asarray(chunks, np.float64)
    finite_indices = np.flatnonzero(np.isfinite(scores))
    finite_scores = scores[finite_indices]
    if (
        len(finite_scores) < 2
        or np.ptp(finite_scores) <= MIN_RELATIVE_CHANGE * np.abs(finite_scores).max()
    ):
        return Movement()
    steps = np.diff(finite_scores)
    largest = int(np.argmax(np.abs(steps)))
    result = Movement(largest=int(finite_indices[largest + 1]) + 1, step=float(steps[largest]))
    first_moved = _first_moved(finite_scores)
    if first_moved is None:
        return result
    return dataclasses.replace(
        result,
        chunk=int(finite_indices[first_moved]) + 1,
        before=float(np.median(finite_scores[:first_moved])),
        after=float(finite_scores[first_moved]),
    )


def _first_moved(scores: Float[np.ndarray, "n"]) -> int | None:
    """Index from 1 of the first score that has moved, or None."""
    noise_std = _noise_std(scores)
    threshold = max(
        (4 + 400 / len(scores) ** 2) * noise_std,
        MIN_RELATIVE_CHANGE * np.abs(scores).max(),
        MIN_RANGE_SHARE * np.ptp(scores),
    )
    distances = np.array([scores[i] - np.median(scores[:i]) for i in range(1, len(scores))])
    exceeding = np.flatnonzero(np.abs(distances) > threshold)
    if not len(exceeding):
        return None
    first = int(exceeding[0])
    detected = distances[first]
    onset_threshold = max(ONSET_NOISE_FACTOR * noise_std, ONSET_SHARE * abs(detected))
    while first > 0 and np.sign(detected) * distances[first - 1] > onset_threshold:
        first -= 1
    return first + 1


def _noise_std(scores: Float[np.ndarray, "n"]) -> float:
    """Standard deviation of the scores about a level or a slope that may break once."""
    noise_std = _robust_median(np.diff(scores)) / _STEP_SCALE
    if len(scores) > 4:  # fewer have no turns but those at a break
        noise_std = min(noise_std, _robust_median(np.diff(scores, 2)) / _CURVATURE_SCALE)
    return noise_std


def _robust_median(values: Float[np.ndarray, "n"]) -> float:
    """Median size without the two largest, or of as many as there are."""
    sizes = np.sort(np.abs(values))
    return float(np.median(sizes[: max(1, len(sizes) - 2)]))
