"""Where along a video a score moves: which chunk a person should look at.

How much a score wavers is read from the curve itself: scores differ by orders of magnitude in this
from metric to metric and from video to video.  Steps from chunk to chunk tell it where the score is
level, and changes of these steps where it drifts steadily; a jump shows in at most two of them, so
the two largest are left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

LEAST = 1e-4  # of the largest score: less is rounding
SHARE = 0.05  # of all the range that the scores have: less is not what a person should look at
BACK = 2.0  # times the wavering, and
FRACTION = 0.1  # of how far it has moved when it is noticed: as far a score is already under way
# Median of |normal| times the spread of a difference, and of a difference of differences.
_STEP, _TURN = 0.6745 * math.sqrt(2), 0.6745 * math.sqrt(6)


@dataclasses.dataclass(frozen=True)
class Movement:
    """Where a curve of scores moves; chunks count from 1 and are None where nothing moves.

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
    """Where the scores of a video's chunks move; scores that are not finite are passed over.

    A score has moved when it is further than F times the wavering from the median of all before it,
    with F = 4 + 400 / N^2 for N scores, and by more than `SHARE` of the whole range.  Where it
    moves slowly it may be noticed late; then the beginning is sought backwards, through scores that
    are `BACK` times the wavering and `FRACTION` of the distance away on the same side.

    The fewer scores, the larger F: of ten it is 8, of three 48.  So of curves of independent normal
    noise about one of fifteen is said to move (of four or five scores one of nine); and of three or
    four scores only a jump beside hardly any wavering is.
    """
    scores = np.asarray(chunks, np.float64)
    places = np.flatnonzero(np.isfinite(scores))
    known = scores[places]
    if len(known) < 2 or np.ptp(known) <= LEAST * np.abs(known).max():
        return Movement()
    steps = np.diff(known)
    largest = int(np.argmax(np.abs(steps)))
    found = Movement(largest=int(places[largest + 1]) + 1, step=float(steps[largest]))
    begins = _beginning(known)
    if begins is None:
        return found
    return dataclasses.replace(
        found,
        chunk=int(places[begins]) + 1,
        before=float(np.median(known[:begins])),
        after=float(known[begins]),
    )


def _beginning(scores: Float[np.ndarray, "n"]) -> int | None:
    """Index from 1 of the first score that has moved, or None."""
    wavering = _wavering(scores)
    enough = max(
        (4 + 400 / len(scores) ** 2) * wavering,
        LEAST * np.abs(scores).max(),
        SHARE * np.ptp(scores),
    )
    away = np.array([scores[i] - np.median(scores[:i]) for i in range(1, len(scores))])
    moved = np.flatnonzero(np.abs(away) > enough)
    if not len(moved):
        return None
    first = int(moved[0])
    noticed = away[first]
    under_way = max(BACK * wavering, FRACTION * abs(noticed))
    while first > 0 and np.sign(noticed) * away[first - 1] > under_way:
        first -= 1
    return first + 1


def _wavering(scores: Float[np.ndarray, "n"]) -> float:
    """Standard deviation of the scores about a level or a slope that may break once."""
    found = _typical(np.diff(scores)) / _STEP
    if len(scores) > 4:  # fewer have no turns but those at a break
        found = min(found, _typical(np.diff(scores, 2)) / _TURN)
    return found


def _typical(values: Float[np.ndarray, "n"]) -> float:
    """Median size without the two largest, or of as many as there are."""
    sizes = np.sort(np.abs(values))
    return float(np.median(sizes[: max(1, len(sizes) - 2)]))
