"""Rows compared story by story: means, intervals, paired tests with Holm's correction, what could have been told.

Videos of one story are not independent of each other, so that a story counts once, with the mean over its videos.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from bvjax.lvbench import intervals
from bvjax.lvbench.compare import significance
from experiments.tables.measures import MEASURES, Record

LEVEL = 0.05  # after correction
POWER = 0.8  # with which the smallest difference would be found

Values = Mapping[int, float]  # by story


@dataclasses.dataclass(frozen=True)
class Difference:
    """a - b over the stories that have both; `adjusted` is p after Holm's correction, None before."""

    n: int
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    test: str
    adjusted: float | None = None

    @property
    def told(self) -> bool:
        """Whether it is beyond chance."""
        return self.adjusted is not None and self.adjusted < LEVEL and bool(self.mean)


def by_story(records: Mapping[tuple[int, int], Record], measure: str) -> dict[int, float]:
    """The value of each story, a mean over its videos; `records` are by (story, seed)."""
    found: dict[int, list[float]] = {}
    for (story, _), record in records.items():
        value = MEASURES[measure].value(record)
        if value is not None:
            found.setdefault(story, []).append(value)
    return {story: float(np.mean(values)) for story, values in sorted(found.items())}


def summary(values: Values) -> dict[str, float | int | None]:
    """{mean, low, high, n}; no interval of fewer than two stories."""
    entry = intervals.mean(list(values.values()))
    if len(values) < 2:
        entry |= {"low": None, "high": None}
    return {key: entry[key] for key in ("mean", "low", "high", "n")}


def differences(a: Values, b: Values) -> np.ndarray:
    """a - b of the stories that have both."""
    return np.array([a[story] - b[story] for story in sorted(a.keys() & b.keys())])


def compared(a: Values, b: Values) -> Difference:
    """The difference with its interval and a test of its own (`bvjax.lvbench.compare.significance`)."""
    values = differences(a, b)
    if not len(values):
        return Difference(0, None, None, None, None, "none")
    entry = summary(dict(enumerate(values)))
    p, test = significance(values)
    return Difference(len(values), entry["mean"], entry["low"], entry["high"], p, test)


def corrected(found: Sequence[Difference]) -> list[Difference]:
    """The differences of one family, with Holm's correction."""
    adjusted = holm([d.p for d in found])
    return [dataclasses.replace(d, adjusted=p) for d, p in zip(found, adjusted, strict=True)]


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p values of several tests, corrected (Holm 1979); those that could not be made (None) do not count."""
    made = [(p, i) for i, p in enumerate(ps) if p is not None]
    result: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, i) in enumerate(sorted(made)):
        largest = max(largest, min(1.0, (len(made) - rank) * p))
        result[i] = largest
    return result


def least_stories(tests: int) -> int:
    """The fewest stories of which so many tests can find anything: all differing the same way, 2 / 2^n a test."""
    return math.ceil(1 + math.log2(max(tests, 1) / LEVEL) + 1e-12)


def in_deviations(stories: int, tests: int) -> float | None:
    """The smallest difference that is told with chance `POWER`, in standard deviations of the paired difference.

    By the t test at the level that the smallest p has to reach among so many (Bonferroni's, which Holm begins with);
    None where there are too few stories for any.
    """
    if stories < least_stories(tests):
        return None
    quantile = scipy.stats.t(stories - 1).ppf
    return float((quantile(1 - LEVEL / (2 * max(tests, 1))) + quantile(POWER)) / math.sqrt(stories))


def smallest(pairs: Iterable[tuple[Values, Values]], tests: int) -> float | None:
    """The smallest difference that can be told between two rows: `in_deviations` of the mean spread of these pairs."""
    found = [differences(a, b) for a, b in pairs]
    found = [values for values in found if len(values) > 1]
    if not found:
        return None
    factor = in_deviations(min(map(len, found)), tests)
    spread = math.sqrt(np.mean([values.var(ddof=1) for values in found]))
    return None if factor is None else factor * spread


def entry_of(difference: Difference) -> dict[str, Any]:
    """A difference as JSON."""
    return dataclasses.asdict(difference) | {"told": difference.told}
