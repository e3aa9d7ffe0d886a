"""Numbers per frame to scores per segment."""

import numpy as np

from bvjax.lvbench import vde
from bvjax.lvbench.paper.measuring import means, missing_reason


def test_means_are_those_of_vde():
    numbers = np.random.default_rng(0).normal(size=23)
    np.testing.assert_allclose(means(numbers, 5), vde.segment_means(numbers, 5))
    pairs = vde.segment_pair_means(numbers[1:], 5)  # the number of pair (t - 1, t) lies at t
    np.testing.assert_allclose(means(numbers, 5, lag=1), pairs)


def test_what_is_missing_is_left_out_and_named():
    numbers = np.array([1.0, np.nan, np.nan, np.nan, 5.0, 7.0, 9.0])
    np.testing.assert_equal(means(numbers, 3), [1.0, np.nan, 6.0])
    assert missing_reason(means(numbers, 3), "subject found") == "no subject found in chunk 2"
    assert missing_reason([np.nan, 1, np.nan], "cat") == "no cat in chunks 1, 3"
    assert missing_reason([1.0], "cat") == ""
