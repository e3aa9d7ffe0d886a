"""The drift number against the sum of Eq. 19 written out, and segments against slices."""

import math

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.lvbench.vde import drift_weights, segment_means, segment_pair_means, vde


def by_hand(scores, weight):
    n, first = len(scores), scores[0]
    return sum(weight(n - i + 1) * abs(scores[i - 1] - first) / first for i in range(2, n + 1))


@pytest.mark.parametrize(("kind", "weight"), [("linear", float), ("log", math.log)])
def test_is_the_sum_of_equation_19(kind, weight):
    scores = np.random.default_rng(0).uniform(0.5, 2.0, (3, 10))
    want = [by_hand(row, weight) for row in scores.tolist()]
    np.testing.assert_allclose(vde(scores, kind), want, rtol=1e-12)
    total = sum(weight(10 - i + 1) for i in range(2, 11))
    np.testing.assert_allclose(
        vde(scores, kind, normalise=True), np.array(want) / total, rtol=1e-12
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
