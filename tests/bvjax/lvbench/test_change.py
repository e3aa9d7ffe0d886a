"""Where curves move, on curves that were made to move there."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bvjax.lvbench.change import Movement, movement


def curve(kind, chunks, at, noise=0.005, seed=0):
    """A level score that jumps, sinks, decays or blinks at a chunk (from 1)."""
    scores, later = np.ones(chunks), np.arange(chunks - at + 1) + 0.5
    if kind == "jump":
        scores[at - 1 :] = 0.7
    elif kind == "sink":
        scores[at - 1 :] -= 0.4 * later / len(later)
    elif kind == "decay":
        scores[at - 1 :] = 0.5 + 0.5 * np.exp(-3 * later / len(later))
    elif kind == "blink":
        scores[at - 1] = 1.3
    return scores + np.random.default_rng(seed).normal(0, noise, chunks)


@pytest.mark.parametrize("kind", ["jump", "sink", "decay", "blink"])
@pytest.mark.parametrize(("chunks", "at"), [(8, 5), (10, 3), (10, 6), (10, 9), (15, 9), (60, 36)])
def test_finds_the_chunk(kind, chunks, at):
    result = [movement(curve(kind, chunks, at, seed=seed)).chunk for seed in range(20)]
    near = 1 if kind == "sink" else 0  # which begins with a small step
    hits = [chunk is not None and abs(chunk - at) <= near for chunk in result]
    assert np.mean(hits) >= 0.8, result


def test_units_and_direction_do_not_matter():
    scores = curve("jump", 10, 6)
    for changed in (1e-5 * scores, 3 - scores, 7e4 * scores):
        assert movement(changed).chunk == movement(scores).chunk == 6
    result = movement(scores)
    assert result.largest == 6 and result.step == pytest.approx(-0.3, abs=0.03)
    assert result.before == pytest.approx(1, abs=0.01) and result.after == scores[5]


@pytest.mark.parametrize("chunks", [3, 4, 5, 8, 10, 30])
def test_noise_alone_seldom_moves(chunks):
    curves = np.random.default_rng(chunks).normal(1, 0.02, (200, chunks))
    assert np.mean([movement(scores).chunk is not None for scores in curves]) < 0.2


def test_steady_drift_begins_with_the_second_chunk():
    assert movement(np.linspace(1, 0.5, 10)).chunk == 2
    assert movement(curve("sink", 20, 1, noise=0.001)).chunk in (2, 3)


def test_short_and_level_curves():
    nothing = Movement()
    assert movement([]) == movement([0.5]) == movement([0.0] * 10) == nothing
    assert movement(0.9 + 1e-6 * np.arange(10)) == nothing  # rounding
    assert movement([1.0, 1.001, 0.4]).chunk == 3
    assert movement([1.0, 0.5]).largest == 2  # two scores cannot tell how much they waver
    assert movement([1, 1, 1, 0, 1, 1, 1, 1, 1, 1]).chunk == 4  # of whole numbers
    assert movement([math.nan] * 5) == nothing


def test_a_chunk_without_a_score_keeps_its_number():
    scores = curve("jump", 10, 6)
    scores[[0, 3]] = math.nan, math.inf
    assert movement(scores).chunk == movement(scores).largest == 6


@given(
    st.lists(st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=60)
)
def test_never_fails_and_fits_into_json(scores):
    result = movement(scores)
    json.dumps(result.as_dict(), allow_nan=False)
    for chunk in (result.chunk, result.largest):
        assert chunk is None or (2 <= chunk <= len(scores) and math.isfinite(scores[chunk - 1]))
