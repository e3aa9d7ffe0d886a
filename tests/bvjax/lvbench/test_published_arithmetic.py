"""VDE against what the published evaluator's own function returned for these scores.

The numbers were printed by `vde(torch.tensor(scores, dtype=torch.float64), float, weights).item()`
with `vde` of LV-Bench/vde.py in Inferix a8cb31d and torch 2.13.0 on a CPU.  It rounds scores to
float32 before anything else, and so do these tests: where scores hardly differ that rounding alone
changes the sum by up to 1e-4, relatively.
"""

import math

import numpy as np
import pytest

from bvjax.lvbench.vde import drift, vde

SCORES = {
    "subject": (0.9712, 0.9688, 0.9701, 0.9655, 0.9592, 0.9611, 0.9547, 0.9503, 0.9521, 0.9488),
    "motion": (0.99431, 0.99428, 0.99435, 0.99419, 0.99422, 0.99407, 0.99411, 0.99398, 0.99402,
               0.99391),
    "clarity": (68.213, 67.95, 66.018, 61.27, 55.5, 54.219, 48.03, 47.77, 40.125, 39.9),
    "dynamic": (1, 0, 1, 1, 0, 1, 1, 1, 0, 1),
    "three": (0.31, 0.62, 0.155),
    "one": (0.5,),
    "zero": (0.0, *[1.0] * 9),
    "negative": (-0.2, 0.1, 0.3, -0.4, 0.0),
}  # fmt: skip
PUBLISHED = {
    ("subject", "linear"): 0.3934304118156433,
    ("subject", "log"): 0.11890727281570435,
    ("motion", "linear"): 0.005975090898573399,
    ("motion", "log"): 0.0017813958693295717,
    ("clarity", "linear"): 6.469821453094482,
    ("clarity", "log"): 1.962403416633606,
    ("dynamic", "linear"): 17.0,
    ("dynamic", "log"): 4.682131290435791,
    ("three", "linear"): 2.5,
    ("three", "log"): 0.6931471824645996,
    ("one", "linear"): 0.0,
    ("one", "log"): 0.0,
    ("zero", "linear"): math.inf,
    ("zero", "log"): math.inf,
    ("negative", "linear"): -16.5,
    ("negative", "log"): -5.519119739532471,
}


@pytest.mark.parametrize(("name", "weights"), PUBLISHED)
def test_is_what_the_published_function_returned(name, weights):
    scores = np.float32(SCORES[name])
    assert vde(scores, weights) == pytest.approx(PUBLISHED[name, weights], rel=1e-6)
    if name in ("subject", "motion", "clarity", "dynamic", "three"):
        assert drift(scores, weights).vde == pytest.approx(PUBLISHED[name, weights], rel=1e-6)


def test_a_wrong_weight_would_show():
    """The published numbers tell N - i + 1 from N - i, and the first segment from the mean."""
    scores = np.float64(np.float32(SCORES["clarity"]))
    change = np.abs(scores[1:] - scores[0]) / scores[0]
    published = PUBLISHED["clarity", "linear"]
    assert (change * np.arange(9, 0, -1)).sum() == pytest.approx(published, rel=1e-6)
    assert (change * np.arange(8, -1, -1)).sum() != pytest.approx(published, rel=1e-3)
    mean = scores.mean()
    wrong = (np.abs(scores[1:] - mean) / mean * np.arange(9, 0, -1)).sum()
    assert wrong != pytest.approx(published, rel=1e-3)
