"""Video Drift Error: how far a score strays from what it was in the first segment (Eq. 14-19)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from bvjax.errors import UserError

SEGMENTS = 10
WEIGHTS = ("linear", "log")


def drift_weights(segments: int, kind: str = "linear") -> Float[np.ndarray, "n-1"]:
    """w_2 .. w_N of Eq. 19: N - i + 1 (`linear`) or log(N - i + 1) (`log`, 0 for the last segment).

    Both weigh early segments most.  Raises `UserError` for an unknown kind.
    """
    if kind not in WEIGHTS:
        raise UserError(f"the VDE weights are {kind!r}; they can be {' or '.join(WEIGHTS)}")
    counts = np.arange(segments - 1, 0, -1, dtype=np.float64)
    return counts if kind == "linear" else np.log(counts)


def vde(
    scores: Float[np.ndarray, "*v n"], weights: str = "linear", normalise: bool = False
) -> Float[np.ndarray, "*v"]:
    """Sum over i = 2..N of w_i |m_i - m_1| / m_1 (Eq. 19), float64; 0 where N < 2.

    The un-normalised sum is what the public LV-Bench evaluator prints, with N = 10 and linear
    weights (their sum is 45); `normalise` divides by the sum of the weights, so that values for
    other N and weights compare.  A first score of 0 gives inf: nothing is relative to nothing.

    Args:
        scores: m_1 .. m_N of each video; higher need not mean better.

    Raises:
        UserError: unknown weights, or normalised weights that sum to 0 (log, N = 2).
    """
    scores = np.asarray(scores, np.float64)
    segments = scores.shape[-1]
    w = drift_weights(segments, weights)
    if segments < 2:
        return np.zeros(scores.shape[:-1])
    if normalise:
        if w.sum() == 0:
            raise UserError("log weights of 2 chunks are all 0, so there is nothing to divide by")
        w = w / w.sum()
    first = scores[..., :1]
    safe = np.where(first == 0, 1.0, first)
    total = (np.abs(scores[..., 1:] - first) / safe) @ w
    return np.where(first[..., 0] == 0, np.inf, total)


@dataclasses.dataclass(frozen=True)
class Drift:
    """The drift of one video's scores from its first segment's; None where it is undefined.

    vde: the published sum (Eq. 19). normalised: divided by the sum of its weights, a mean change.
    wmape: Eq. 15 of m_2 .. m_N as estimates of m_1, a mean change in which all segments count
    alike. reason: why there are no numbers, naming the segments; empty where there are.
    """

    vde: float | None
    normalised: float | None
    wmape: float | None
    reason: str = ""


def drift(chunks: Sequence[float], weights: str = "linear") -> Drift:
    """The `Drift` of the scores m_1 .. m_N of one video, in float64.

    Scores that are NaN or infinite, and a first score that nothing can be relative to (0, or below
    it: Eq. 19 divides by m_1, not by |m_1|), give no numbers but a reason.

    Raises:
        UserError: unknown weights, or fewer than two segments.
    """
    scores = np.asarray(chunks, np.float64)
    if scores.ndim != 1 or len(scores) < 2:
        raise UserError(f"drift needs the scores of at least 2 chunks, not {list(scores.shape)}")
    w = drift_weights(len(scores), weights)
    reason = _drift_problem(scores)
    if reason:
        return Drift(None, None, None, reason)
    total = float(vde(scores, weights))
    return Drift(
        vde=total,
        normalised=total / float(w.sum()) if w.sum() else None,
        wmape=wmape(np.full(len(scores) - 1, scores[0]), scores[1:]),
    )


def mape(actual: Float[np.ndarray, "n"], predicted: Float[np.ndarray, "n"]) -> float:
    """Mean absolute percentage error (Eq. 14), in percent.

    Raises `UserError` that names the values that are 0 (in `actual`) or not finite.
    """
    y, estimate = _check_series(actual, predicted)
    if (y == 0).any():
        raise UserError(
            f"actual {_describe_positions('value', y == 0)} 0, and no error is relative to 0 (WMAPE may be used)"
        )
    return float(100 * np.abs((y - estimate) / y).mean())


def wmape(actual: Float[np.ndarray, "n"], predicted: Float[np.ndarray, "n"]) -> float:
    """Weighted mean absolute percentage error (Eq. 15): a ratio, not in percent, as in the paper.

    Raises `UserError` for values that are not finite, and when all actual values are 0.
    """
    y, estimate = _check_series(actual, predicted)
    total = np.abs(y).sum()
    if total == 0:
        raise UserError("all actual values are 0, and no error is relative to 0")
    return float(np.abs(y - estimate).sum() / total)


def segment_means(
    scores: Float[np.ndarray, "*v t"], segments: int = SEGMENTS
) -> Float[np.ndarray, "*v n"]:
    """m_i of a score per frame: means of equal contiguous segments, trailing frames dropped.

    Raises `UserError` when there are fewer frames than segments.
    """
    scores = np.asarray(scores, np.float64)
    length = _length(scores.shape[-1], segments)
    in_segments = scores[..., : length * segments]
    return in_segments.reshape(*scores.shape[:-1], segments, length).mean(-1)


def segment_pair_means(
    scores: Float[np.ndarray, "*v t-1"], segments: int = SEGMENTS
) -> Float[np.ndarray, "*v n"]:
    """m_i of a score per pair of neighbours: the |S_i| - 1 pairs inside a segment (Eq. 21).

    Pairs that straddle two segments belong to neither.  Raises `UserError` when segments would
    have fewer than two frames.
    """
    scores = np.asarray(scores, np.float64)
    frames = scores.shape[-1] + 1
    length = _length(frames, segments)
    if length < 2:
        raise UserError(f"{frames} frames give {segments} chunks without a pair of frames in them")
    starts = np.arange(segments) * length
    rows = starts[:, None] + np.arange(length - 1)
    return scores[..., rows].mean(-1)


def _length(frames: int, segments: int) -> int:
    if frames < segments:
        raise UserError(f"a video of {frames} frames cannot be cut into {segments} chunks")
    return frames // segments


def _drift_problem(scores: Float[np.ndarray, "n"]) -> str:
    """Returns the reason why scores have no drift; "" where they have one."""
    problems = []
    if np.isnan(scores).any():
        problems.append(f"{_describe_positions('chunk', np.isnan(scores))} not a number")
    if np.isinf(scores).any():
        problems.append(f"{_describe_positions('chunk', np.isinf(scores))} infinite")
    if scores[0] == 0:
        problems.append("chunk 1 scores 0, and nothing is relative to 0")
    elif -np.inf < scores[0] < 0:
        problems.append(
            f"chunk 1 scores {scores[0]:g}, and a change relative to less than 0 has no meaning"
        )
    return "; ".join(problems)


def _describe_positions(noun: str, mask: np.ndarray) -> str:
    """ "chunk 3 is", "chunks 3, 4 are"."""
    indices = [str(i + 1) for i in np.flatnonzero(mask)]
    return f"{noun}s {', '.join(indices)} are" if len(indices) > 1 else f"{noun} {indices[0]} is"


def _check_series(actual: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, estimate = np.asarray(actual, np.float64), np.asarray(predicted, np.float64)
    if y.ndim != 1 or y.shape != estimate.shape or not len(y):
        raise UserError(
            f"actual {list(y.shape)} and predicted {list(estimate.shape)} must be two lists of "
            "equally many values"
        )
    for name, values in (("actual", y), ("predicted", estimate)):
        invalid = ~np.isfinite(values)
        if invalid.any():
            raise UserError(f"{name} {_describe_positions('value', invalid)} not finite")
    return y, estimate
