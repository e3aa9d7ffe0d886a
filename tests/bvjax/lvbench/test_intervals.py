"""Intervals against published numbers, and against how they must cover and shrink."""

import numpy as np
import pytest

from bvjax.lvbench import intervals


def test_wilson_is_the_published_interval():
    np.testing.assert_allclose(intervals.wilson(0, 10), (0.0, 0.27753), atol=1e-5)
    np.testing.assert_allclose(intervals.wilson(5, 10), (0.23659, 0.76341), atol=1e-5)
    low, high = intervals.wilson(81, 263)  # Newcombe 1998, table I
    np.testing.assert_allclose((low, high), (0.2553, 0.3662), atol=1e-4)
    assert intervals.rate([])["rate"] is None
    assert intervals.rate([True, False])["rate"] == 0.5


def test_bootstrap_covers_and_counts_what_is_infinite():
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    result = intervals.mean([*values, np.inf])
    assert result["low"] < 3.0 < result["high"] and result["infinite"] == 1 and result["n"] == 400
    np.testing.assert_allclose(result["high"] - result["low"], 2 * 1.96 / 20, rtol=0.15)
    assert intervals.mean([np.inf])["mean"] is None
    ahead = intervals.difference([1, 1, 1, 0], [0, 0, 1, 0])
    assert ahead["mean"] == 0.5 and ahead["low"] >= 0


def test_weights_count_a_value_several_times():
    values, weights = [1.0, 2.0, 6.0], [5, 3, 2]
    result = intervals.mean(values, weights=weights)
    assert result["mean"] == pytest.approx(np.repeat(values, weights).mean())
    assert 1.0 <= result["low"] < result["mean"] < result["high"] <= 6.0
    alike = intervals.mean(values, weights=[7, 7, 7])
    plain = intervals.mean(values)
    for key in ("mean", "low", "high"):
        assert alike[key] == pytest.approx(plain[key], rel=1e-12)
