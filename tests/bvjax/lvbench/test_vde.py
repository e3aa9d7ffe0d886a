"""The drift number against the sum of Eq. 19 written out, and segments against slices."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bvjax.errors import UserError
from bvjax.lvbench.vde import (
    Drift,
    drift,
    drift_weights,
    mape,
    segment_means,
    segment_pair_means,
    vde,
    wmape,
)


def by_hand(scores, weight):
    n, first = len(scores), scores[0]
    return sum(weight(n - i + 1) * abs(scores[i - 1] - first) / first for i in range(2, n + 1))


@pytest.mark.parametrize(("kind", "weight"), [("linear", float), ("log", math.log)])
def test_is_the_sum_of_equation_19(kind, weight):
    scores = np.random.default_rng(0).uniform(0.5, 2.0, (3, 10))
    expected = [by_hand(row, weight) for row in scores.tolist()]
    np.testing.assert_allclose(vde(scores, kind), expected, rtol=1e-12)
    total = sum(weight(10 - i + 1) for i in range(2, 11))
    np.testing.assert_allclose(
        vde(scores, kind, normalise=True), np.array(expected) / total, rtol=1e-12
    )


def test_linear_weights_of_ten_segments():
    assert drift_weights(10).tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert drift_weights(10, "log")[-1] == 0


def test_no_drift_is_zero_and_early_drift_costs_most():
    flat = np.full(10, 3.0)
    early, late = flat.copy(), flat.copy()
    early[1], late[9] = 6.0, 6.0
    assert vde(flat) == 0 and vde(early) == 9.0 and vde(late) == 1.0
    assert vde(2 * early) == vde(early)  # relative to the first segment


def test_a_first_score_of_zero_is_infinite_drift():
    scores = np.ones((2, 10))
    scores[1, 0] = 0.0
    assert vde(scores).tolist() == [0.0, np.inf]
    assert vde(np.zeros(10)) == np.inf
    assert vde(np.ones(1)) == 0.0


def test_segments_are_equal_and_drop_the_remainder():
    frames = np.random.default_rng(1).normal(size=(2, 107))
    means = segment_means(frames, 10)
    for i in range(10):
        np.testing.assert_allclose(means[:, i], frames[:, 10 * i : 10 * i + 10].mean(1))
    pairs = segment_pair_means(frames[:, :-1], 10)  # 107 frames have 106 pairs
    for i in range(10):  # 10 frames have 9 pairs among themselves
        np.testing.assert_allclose(pairs[:, i], frames[:, 10 * i : 10 * i + 9].mean(1))


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(UserError, match="9 frames"):
        segment_means(np.ones(9))
    with pytest.raises(UserError, match="without a pair"):
        segment_pair_means(np.ones(11))
    with pytest.raises(UserError, match="linear or log"):
        vde(np.ones(10), "cubic")
    with pytest.raises(UserError, match="all 0"):
        vde(np.ones(2), "log", normalise=True)


# ---- one video's drift, reported ----------------------------------------------------------------
@given(
    st.lists(st.floats(0.01, 100), min_size=3, max_size=60),
    st.sampled_from(["linear", "log"]),
    st.floats(0.1, 10),
)
def test_drift_is_equation_19_and_does_not_ask_for_units(scores, kind, unit):
    result, w = drift(scores, kind), drift_weights(len(scores), kind)
    weight = {"linear": float, "log": math.log}[kind]
    assert result.vde == pytest.approx(by_hand(scores, weight), rel=1e-9, abs=1e-12)
    assert result.normalised == pytest.approx(result.vde / w.sum())
    changes = [abs(m - scores[0]) / scores[0] for m in scores[1:]]
    assert result.wmape == pytest.approx(sum(changes) / len(changes), rel=1e-9)
    assert result.reason == ""
    scaled = drift([unit * m for m in scores], kind)
    assert scaled.vde == pytest.approx(result.vde, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([1, math.nan, 2], "chunk 2 is not a number"),
        ([1, math.nan, math.nan], "chunks 2, 3 are not a number"),
        ([1, 2, -math.inf], "chunk 3 is infinite"),
        ([math.inf, math.nan, 1], "chunk 2 is not a number; chunk 1 is infinite"),
        ([0, 1, 2], "chunk 1 scores 0"),
        ([-0.5, 1, 2], "chunk 1 scores -0.5"),
        ([math.nan, 1, 2], "chunk 1 is not a number"),
    ],
)
def test_what_has_no_drift_says_which_segment_is_to_blame(scores, words):
    result = drift(scores)
    assert (result.vde, result.normalised, result.wmape) == (None, None, None)
    assert words in result.reason


def test_two_segments_have_no_normalised_logarithmic_drift():
    assert drift([1.0, 2.0], "log") == Drift(0.0, None, 1.0)
    assert drift([1.0, 2.0]) == Drift(1.0, 1.0, 1.0)
    with pytest.raises(UserError, match="at least 2"):
        drift([1.0])


# ---- the errors that VDE is made after ----------------------------------------------------------
def test_percentage_errors_are_equations_14_and_15():
    actual, predicted = np.array([2.0, -4.0, 5.0]), np.array([1.0, -3.0, 5.0])
    assert mape(actual, predicted) == pytest.approx(100 / 3 * (1 / 2 + 1 / 4))  # percent
    assert wmape(actual, predicted) == pytest.approx(2 / 11)  # a ratio
    assert wmape([0.0, 2.0], [1.0, 2.0]) == 0.5  # one 0 does no harm


@pytest.mark.parametrize(
    ("error", "actual", "predicted", "words"),
    [
        (mape, [1, 0, 0], [1, 1, 1], "values 2, 3 are 0"),
        (wmape, [0, 0], [1, 1], "all actual values are 0"),
        (mape, [1, 2], [1, math.nan], "predicted value 2 is not finite"),
        (wmape, [math.inf, 2], [1, 1], "actual value 1 is not finite"),
        (wmape, [1, 2], [1], "equally many"),
    ],
)
def test_what_has_no_percentage_error_is_refused_by_name(error, actual, predicted, words):
    with pytest.raises(UserError, match=words):
        error(actual, predicted)
