"""Statistics of tables against hand calculation and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from experiments.tables import statistics as stats
from experiments.tables.statistics import Difference

P = st.floats(0.0, 1.0)


def test_holm_by_hand():
    """Sorted .005, .01, .03, .04 times 4, 3, 2, 1, never falling; a test that was not made does not count."""
    found = stats.holm([0.01, 0.04, None, 0.03, 0.005])
    assert found == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert stats.holm([0.6, 0.7]) == [1.0, 1.0]
    assert stats.holm([]) == []


@given(st.lists(P, min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni(ps):
    found = stats.holm(ps)
    for p, adjusted in zip(ps, found, strict=True):
        assert p - 1e-12 <= adjusted <= min(1.0, len(ps) * p) + 1e-12
    order = np.argsort(ps, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()


def test_a_story_counts_once():
    record = lambda x: {"scores": {"clarity": {"vde": x}}}
    records = {(7, 0): record(1.0), (7, 1): record(3.0), (9, 0): record(5.0), (8, 0): record(None)}
    assert stats.by_story(records, "vde/clarity") == {7: 2.0, 9: 5.0}


def test_differences_are_paired_by_story():
    a = {s: float(s) for s in range(10)}
    b = {s: 2.0 * s + 1 for s in range(3, 12)}
    found = stats.compared(a, b)
    values = [-s - 1.0 for s in range(3, 10)]
    assert found.n == 7 and found.mean == pytest.approx(np.mean(values))
    assert found.p == pytest.approx(scipy.stats.wilcoxon(values).pvalue)
    assert found.low <= found.mean <= found.high and not found.told
    assert stats.compared({1: 1.0}, {2: 1.0}).p is None
    single = stats.compared({1: 1.0}, {1: 3.0})
    assert (single.mean, single.low, single.n) == (-2.0, None, 1)


def test_what_is_told_is_after_correction():
    found = [Difference(9, 1.0, 0.5, 1.5, p, "t") for p in (0.03, 0.9)]
    assert [d.told for d in stats.corrected(found[:1])] == [True]
    assert [d.told for d in stats.corrected(found)] == [False, False]


@pytest.mark.parametrize("tests", [1, 10, 50])
def test_the_fewest_stories_are_those_whose_smallest_p_suffices(tests):
    least = stats.least_stories(tests)
    smallest_p = lambda n: scipy.stats.binomtest(0, n).pvalue  # all differ the same way
    assert tests * smallest_p(least) < stats.LEVEL <= tests * smallest_p(least - 1)
    assert stats.in_deviations(least - 1, tests) is None
    assert stats.in_deviations(least, tests) > 0


def test_the_smallest_difference_is_found_four_times_of_five():
    """By the power of the t test, from the noncentral t."""
    n, tests = 16, 10
    size = stats.in_deviations(n, tests)
    limit = scipy.stats.t(n - 1).ppf(1 - 0.05 / tests / 2)
    power = scipy.stats.nct(n - 1, size * math.sqrt(n)).sf(limit)
    assert power == pytest.approx(0.8, abs=0.03)


def test_the_smallest_difference_scales_with_the_spread_of_pairs():
    rng = np.random.default_rng(0)
    a = dict(enumerate(rng.normal(size=16)))
    zero = dict.fromkeys(a, 0.0)
    found = stats.smallest([(a, zero)], 1)
    spread = np.std(list(a.values()), ddof=1)
    assert found == pytest.approx(stats.in_deviations(16, 1) * spread)
    wide = {s: 3 * x for s, x in a.items()}
    assert stats.smallest([(wide, zero)], 1) == pytest.approx(3 * found)
    assert stats.smallest([({0: 1.0}, {0: 2.0})], 1) is None
