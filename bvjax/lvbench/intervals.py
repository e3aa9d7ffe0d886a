"""95 % intervals: Wilson's for rates, the bootstrap for means and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z = 1.959963984540054  # two-sided 95 % of the normal distribution
DRAWS = 4000


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Score interval of a rate of `hits` in `n` (Wilson 1927); (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    rate, z2 = hits / n, Z * Z
    middle = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def rate(hits: Sequence[bool]) -> dict[str, float | int | None]:
    """{rate, low, high, n}; the rate of nothing is None."""
    n, count = len(hits), int(sum(hits))
    low, high = wilson(count, n)
    return {"rate": count / n if n else None, "low": low, "high": high, "n": n}


def mean(
    values: Sequence[float], seed: int = 0, weights: Sequence[float] | None = None
) -> dict[str, float | int | None]:
    """{mean, low, high, n, infinite}: percentile bootstrap over the finite values.

    Values that are not finite are counted in `infinite` and are not in the mean, which a reader
    must know to read it.

    Args:
        weights: how much each value counts in the mean, above 0; all are drawn alike.
    """
    values = np.asarray(values, np.float64)
    is_finite = np.isfinite(values)
    finite = values[is_finite]
    counts = {"n": len(finite), "infinite": int(len(values) - len(finite))}
    if not len(finite):
        return {"mean": None, "low": None, "high": None, **counts}
    rng = np.random.default_rng(seed)
    if weights is None:
        centre = finite.mean()
        means = rng.choice(finite, (DRAWS, len(finite))).mean(axis=1)
    else:
        w = np.asarray(weights, np.float64)[is_finite]
        centre = (w * finite).sum() / w.sum()
        samples = rng.integers(len(finite), size=(DRAWS, len(finite)))
        means = (w * finite)[samples].sum(axis=1) / w[samples].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(centre), "low": float(low), "high": float(high), **counts}


def difference(
    a: Sequence[float], b: Sequence[float], seed: int = 0
) -> dict[str, float | int | None]:
    """`mean` of a - b over cases that both measured (paired bootstrap)."""
    return mean(np.asarray(a, np.float64) - np.asarray(b, np.float64), seed)
