"""Paired comparisons: planted differences are found, chance is not, and pairs are the right ones."""

import itertools

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.lvbench.compare import SIGN, WILCOXON, compare, markdown, significance, text
from tests.bvjax.lvbench.made_up_results import made_up


def planted(count=12, factor=0.5):
    """Two evaluations of the same videos; B drifts `factor` times as much in clarity, and scores more."""
    a, b = made_up(count), made_up(count)
    b["config"]["name"] = "better"
    for video in b["videos"]:
        scores = video["scores"]["official/clarity"]
        scores["vde"] *= factor
        scores["whole"] += 0.1
    return a, b


def rows(found):
    return {row.title: row for row in found.rows}


def test_a_planted_difference_is_found_and_nothing_else():
    found = rows(compare(*planted()))
    drift, whole = found["VDE Clarity (official)"], found["imaging quality"]
    assert drift.difference == pytest.approx(drift.a - drift.b) and drift.a == pytest.approx(
        2 * drift.b
    )
    assert 0 < drift.low < drift.difference < drift.high
    assert drift.better == whole.better == "B" and drift.n == 12
    assert drift.p == pytest.approx(2 / 2**12) and drift.test == WILCOXON  # all signs alike
    assert whole.difference == pytest.approx(-0.1)
    other = found["VDE Subject (official)"]
    assert other.difference == 0 and other.p == 1 and other.better == ""
    turned = rows(compare(*reversed(planted())))["VDE Clarity (official)"]
    assert turned.better == "A" and turned.difference == -drift.difference


def by_counting(values):
    """The signed-rank test's p, all signs counted out; sizes must differ."""
    ranks = np.argsort(np.argsort(np.abs(values))) + 1
    middle = ranks.sum() / 2
    away = abs(ranks[np.asarray(values) > 0].sum() - middle)
    sums = [np.dot(signs, ranks) for signs in itertools.product((0, 1), repeat=len(values))]
    return np.mean([abs(s - middle) >= away - 1e-9 for s in sums])


def test_significance_is_what_counting_gives():
    values = np.random.default_rng(1).normal(0.5, 1, 8)
    p, test = significance([*values, 0.0])  # a pair without a difference tells nothing
    assert test == WILCOXON and p == pytest.approx(by_counting(values))
    assert significance([1, 2, 3, 4, 5]) == (pytest.approx(2 / 2**5), SIGN)
    assert significance([1, 2, 3, -4]) == (pytest.approx(2 * 5 / 2**4), SIGN)
    assert significance([0, 0]) == (1.0, SIGN) and significance([]) == (None, SIGN)


def test_chance_is_seldom_called_a_difference():
    generator = np.random.default_rng(0)
    p = [significance(generator.normal(size=10))[0] for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) < 0.08


def test_videos_pair_by_prompt_then_name_then_stem():
    a, b = made_up(5), made_up(5)
    for place, name in enumerate(("one.mp4", "two.mp4", "x-7.mp4", "y.mp4", "z.mp4")):
        a["videos"][place]["name"] = name
    for place, name in enumerate(("one.mp4", "two.webm", "q.mp4", "r.mp4", "s.mp4")):
        b["videos"][place]["name"] = name
    a["videos"][2]["prompt"] = b["videos"][4]["prompt"] = "A fox."
    a["videos"][3]["prompt"] = a["videos"][4]["prompt"] = b["videos"][2]["prompt"] = "An owl."
    found = compare(a, b)
    assert found.pairs == (("one.mp4", "one.mp4"), ("two.mp4", "two.webm"), ("x-7.mp4", "s.mp4"))
    assert found.only_a == ("y.mp4", "z.mp4") and found.only_b == ("q.mp4", "r.mp4")
    lines = "\n".join(text(found))
    assert "only in made up: y.mp4, z.mp4" in lines and "two.mp4 with two.webm" in lines


def test_different_prompts_are_no_pair():
    a, b = made_up(2, names=["x.mp4", "y.mp4"]), made_up(2, names=["x.mp4", "z.mp4"])
    a["videos"][0]["prompt"], b["videos"][1]["prompt"] = "A fox.", "A fox."
    b["videos"][0]["prompt"] = "An owl."
    found = compare(a, b)
    assert found.pairs == (("x.mp4", "z.mp4"),)  # the story, not the name
    assert found.only_a == ("y.mp4",) and found.only_b == ("x.mp4",)
    head, *_, note = text(found)[2:]
    assert head.split() == ["A", "B", "A", "-", "B"] and "One pair" in "".join(text(found))


def test_what_was_not_measured_is_in_no_pair():
    a, b = planted(4)
    a["videos"][0]["scores"]["official/clarity"]["vde"] = None
    del b["videos"][1]["scores"]["official/clarity"]
    for video in a["videos"]:
        video["scores"]["official/motion"]["vde"] = None
    found = rows(compare(a, b))
    assert found["VDE Clarity (official)"].n == 2
    assert found["VDE Motion (official)"].n == 0 and found["VDE Motion (official)"].p is None
    assert len(markdown(compare(a, b))) > 12  # and can be written


def test_what_does_not_compare_is_refused():
    a, b = planted(2)
    b["config"]["weights"] = "log"
    with pytest.raises(UserError, match="VDE weights are linear in made up and log in better"):
        compare(a, b)
    b = made_up(2, names=["p.mp4", "q.mp4"])
    with pytest.raises(UserError, match="no video of one"):
        compare(a, b)
    with pytest.raises(UserError, match="suites are official and paper"):
        compare(a, made_up(2, suites=("paper",)))
