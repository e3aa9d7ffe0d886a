"""Video Drift Error: how far a score strays from what it was in the first segment (Eq. 16-19)."""

from __future__ import annotations

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
            raise UserError("log weights of 2 segments are all 0, so there is nothing to divide by")
        w = w / w.sum()
    first = scores[..., :1]
    safe = np.where(first == 0, 1.0, first)
    total = (np.abs(scores[..., 1:] - first) / safe) @ w
    return np.where(first[..., 0] == 0, np.inf, total)


def segment_means(
    scores: Float[np.ndarray, "*v t"], segments: int = SEGMENTS
) -> Float[np.ndarray, "*v n"]:
    """m_i of a score per frame: means of equal contiguous segments, trailing frames dropped.

    Raises `UserError` when there are fewer frames than segments.
    """
    scores = np.asarray(scores, np.float64)
    length = _length(scores.shape[-1], segments)
    kept = scores[..., : length * segments]
    return kept.reshape(*scores.shape[:-1], segments, length).mean(-1)


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
        raise UserError(
            f"{frames} frames give {segments} segments without a pair of frames in them"
        )
    starts = np.arange(segments) * length
    rows = starts[:, None] + np.arange(length - 1)
    return scores[..., rows].mean(-1)


def _length(frames: int, segments: int) -> int:
    if frames < segments:
        raise UserError(f"a video of {frames} frames cannot be cut into {segments} segments")
    return frames // segments
