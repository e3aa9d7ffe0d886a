"""Shuffled base noise (Eq. 12, 13) and the levels of training (Eq. 11, 26, 27)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.config import NoiseConfig
from bvjax.diffusion import noise
from bvjax.errors import UserError

KEY = jax.random.key(11)
SHAPE = (8, 2, 3, 4)


@functools.cache
def jitted_order(frames, shuffle):
    return jax.jit(
        lambda key, chunk: noise.frame_order(NoiseConfig(shuffle=shuffle), key, chunk, frames)
    )


@functools.cache
def jitted_noise(base="shared", shuffle=3, batch=2):
    config = NoiseConfig(base, shuffle)
    return jax.jit(lambda key, chunk: noise.initial_noise(config, key, chunk, SHAPE, batch))


def draw(chunk, key=KEY, **kwargs):
    return np.asarray(jitted_noise(**kwargs)(key, chunk))


# --- the permutation ------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    frames=st.sampled_from([1, 3, 5, 8]),
    shuffle=st.sampled_from([0, 3, 7]),
    chunk=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_order_permutes_two_disjoint_windows_and_nothing_else(frames, shuffle, chunk, seed):
    order = np.asarray(jitted_order(frames, shuffle)(jax.random.key(seed), chunk))
    window = min(shuffle, frames // 2)
    assert 2 * window <= frames
    assert sorted(order[:window]) == list(range(window))
    assert list(order[window : frames - window]) == list(range(window, frames - window))
    assert sorted(order[frames - window :]) == list(range(frames - window, frames))
    if chunk == 1:
        assert list(order[:window]) == list(range(window))


def test_order_differs_by_seed_chunk_and_side():
    order = np.stack(
        [
            jitted_order(8, 7)(jax.random.key(seed), chunk)
            for seed in range(2)
            for chunk in range(2, 18)
        ]
    )
    prefix, suffix = order[:, :4], order[:, 4:] - 4
    # of 24 permutations, 32 independent draws show many, and the sides seldom agree
    for side in (prefix, suffix):
        assert len({tuple(row) for row in side}) > 10
    assert np.mean(np.all(prefix == suffix, axis=1)) < 0.3
    assert not np.array_equal(order[:16], order[16:])


def test_suffix_of_chunk_1_is_shuffled():
    orders = [jitted_order(8, 7)(jax.random.key(seed), 1) for seed in range(8)]
    moved = [np.any(order[4:] != np.arange(4, 8)) for order in orders]
    assert sum(moved) >= 5  # 1 in 24 stays by chance


def test_traced_chunk_equals_python_int():
    config = NoiseConfig(base="independent")  # the base noise is keyed by the chunk too
    draw_chunk = functools.partial(noise.initial_noise, config, KEY, shape=SHAPE)
    scanned = jax.jit(lambda: jax.lax.map(lambda c: draw_chunk(chunk=c), jnp.arange(1, 3)))()
    static = jax.jit(lambda: (draw_chunk(chunk=1), draw_chunk(chunk=2)))()
    np.testing.assert_array_equal(scanned, static)


# --- the noise --------------------------------------------------------------------------


def test_chunks_share_the_frames_of_one_base_noise():
    base = draw(1, shuffle=0)
    for chunk in (1, 2, 9):
        np.testing.assert_array_equal(draw(chunk, shuffle=0), base)
        shuffled = draw(chunk)
        order = np.asarray(jitted_order(8, 3)(KEY, chunk))
        np.testing.assert_array_equal(shuffled, base[:, order])
        np.testing.assert_array_equal(shuffled[:, 3:5], base[:, 3:5])  # the interior
    assert not np.array_equal(draw(2), draw(9))


def test_independent_chunks_share_nothing_but_are_shuffled_too():
    first, second = (draw(chunk, base="independent") for chunk in (1, 2))
    assert not np.isin(first, second).any()
    config = NoiseConfig(base="independent", shuffle=0)
    base = jax.jit(lambda: noise.initial_noise(config, KEY, 2, SHAPE, 2))()
    order = np.asarray(jitted_order(8, 3)(KEY, 2))
    np.testing.assert_array_equal(second, base[:, order])


def test_noise_is_deterministic_standard_normal_and_keyed_by_the_seed():
    one = draw(4)
    np.testing.assert_array_equal(one, draw(4))
    assert one.dtype == np.float32 and one.shape == (2, *SHAPE)
    assert abs(one.mean()) < 0.2 and abs(one.std() - 1) < 0.15  # 4 standard errors
    assert not np.isin(one, draw(4, key=jax.random.key(12))).any()
    assert not np.isin(one[0], one[1]).any()  # rows differ


def test_a_row_does_not_depend_on_the_batch():
    np.testing.assert_array_equal(draw(2, batch=1)[0], draw(2, batch=2)[0])


def test_anchor_noise_is_its_own():
    anchor = np.asarray(jax.jit(lambda: noise.anchor_noise(KEY, (1, 2, 3, 4), batch=2))())
    assert anchor.shape == (2, 1, 2, 3, 4)
    assert not np.isin(anchor, draw(1)).any() and not np.array_equal(anchor[0], anchor[1])


def test_bad_noise_configs_are_refused():
    with pytest.raises(UserError, match="shared, independent"):
        noise.initial_noise(NoiseConfig(base="own"), KEY, 1, SHAPE)
    with pytest.raises(UserError, match="noise.shuffle is -1"):
        noise.initial_noise(NoiseConfig(shuffle=-1), KEY, 1, SHAPE)


# --- schedules ------------------------------------------------------------------------


def test_eq_11_and_26_and_27_by_hand():
    lo, hi, n, alpha = 0.2, 0.9, 6, 7.0
    for c in range(1, n + 1):
        x = (c - 1) / (n - 1)
        want = {
            "linear": lo + x * (hi - lo),
            "cosine": lo + 0.5 * (hi - lo) * (1 - math.cos(math.pi * x)),
            "sigmoid": lo + (hi - lo) / (1 + math.exp(-alpha * (x - 0.5))),
            "naive": hi,
        }
        for schedule, level in want.items():
            got = noise.chunk_levels(schedule, n, lo, hi, alpha)
            assert got.shape == (n,) and got[c - 1] == pytest.approx(level, abs=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("n", [2, 3, 15])
def test_levels_rise_from_eps_min_to_eps_max(schedule, n):
    levels = noise.chunk_levels(schedule, n, renormalise=True)
    assert np.all(np.diff(levels) > 0)
    assert levels[0] == pytest.approx(0.1) and levels[-1] == pytest.approx(1 / 1.003)


def test_literal_sigmoid_misses_its_ends():
    levels = noise.chunk_levels("sigmoid", 15, 0.1, 0.9, alpha=4.0)
    miss = 0.8 / (1 + math.exp(2.0))
    assert levels[0] == pytest.approx(0.1 + miss) and levels[-1] == pytest.approx(0.9 - miss)


def test_one_chunk_has_eps_min_and_naive_has_one_level():
    for schedule in ("linear", "cosine", "sigmoid"):
        assert noise.chunk_levels(schedule, 1, 0.3) == pytest.approx([0.3])
    assert set(noise.chunk_levels("naive", 4)) == {np.float32(1 / 1.003)}
    assert noise.chunk_levels("naive", 1) == pytest.approx([1 / 1.003])


def test_the_highest_level_has_the_snr_of_the_paper():
    """Section 5.1: 0.003, read as a ratio of amplitudes."""
    level = noise.chunk_levels("cosine", 3)[-1]
    assert (1 - level) / level == pytest.approx(0.003, rel=1e-4)


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: noise.chunk_levels("cosin", 3), "naive, linear, cosine, sigmoid"),
        (lambda: noise.chunk_levels("cosine", 0), "at least 1"),
        (lambda: noise.chunk_levels("cosine", 3, 0.0), "0 < eps_min"),
        (lambda: noise.chunk_levels("cosine", 3, 0.5, 0.4), "eps_min <= eps_max"),
        (lambda: noise.chunk_levels("cosine", 3, 0.5, 1.1), "<= 1"),
        (lambda: noise.draw_sigma(KEY, None, "median", (1, 1)), "median_shift, fixed, cap"),
    ],
)
def test_bad_schedules_are_refused_in_one_sentence(call, words):
    with pytest.raises(UserError) as error:
        call()
    assert words in str(error.value)


# --- levels drawn in training ---------------------------------------------------------

CLIPS = 4000
LEVELS = noise.chunk_levels("cosine", 5, 0.1, 0.9)


@functools.partial(jax.jit, static_argnames=("role", "max_shift"))
def drawn_sigma(levels, mix, shift, role, max_shift):
    return noise.draw_sigma(
        KEY, levels, role, (CLIPS, 5), mix=mix, shift=shift, max_shift=max_shift
    )


def sigma(role, mix=0.0, levels=LEVELS, shift=1.0, max_shift=20.0):
    return np.asarray(drawn_sigma(levels, mix, shift, role, max_shift))


@pytest.mark.parametrize("role", noise.ROLES)
@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_drawn_levels_are_levels(role, mix):
    drawn = sigma(role, mix)
    assert drawn.shape == (CLIPS, 5) and drawn.dtype == np.float32
    assert drawn.min() >= 0 and drawn.max() <= 1
    if mix == 0.0:  # one u a clip: levels rise along the clip as the schedule does
        assert np.all(np.diff(drawn, axis=1) >= 0)


def test_median_shift_puts_the_median_at_the_level_with_full_support():
    drawn = sigma("median_shift")
    np.testing.assert_allclose(np.median(drawn, axis=0), LEVELS, atol=0.02)
    assert drawn.min(axis=0).max() < 0.05 and drawn.max(axis=0).min() > 0.95
    # the chunks of a clip have one u between them: undoing the shifts gives it back
    s = LEVELS / (1 - LEVELS)
    u = drawn / (s - (s - 1) * drawn)
    np.testing.assert_allclose(u, np.broadcast_to(u[:, 2:3], u.shape), atol=2e-3)


def test_median_shift_is_clipped():
    high = np.array([0.5, 0.9, 0.99, 0.997, 1.0], np.float32)
    medians = np.median(sigma("median_shift", levels=high), axis=0)
    np.testing.assert_allclose(medians, [0.5, 0.9, *[20 / 21] * 3], atol=0.02)
    medians = np.median(sigma("median_shift", levels=high, max_shift=4.0), axis=0)
    np.testing.assert_allclose(medians, [0.5, *[0.8] * 4], atol=0.02)


def test_fixed_and_cap():
    np.testing.assert_array_equal(sigma("fixed"), np.broadcast_to(LEVELS, (CLIPS, 5)))
    capped = sigma("cap")
    assert np.all(capped <= LEVELS)
    np.testing.assert_allclose(capped.mean(axis=0), LEVELS / 2, atol=0.02)


def test_progressive_slides_down_the_schedule():
    drawn = sigma("progressive")
    below = np.concatenate([[0.0], LEVELS[:-1]])
    assert np.all(drawn <= LEVELS) and np.all(drawn >= below)
    offset = (LEVELS - drawn) / (LEVELS - below)  # one for a clip, uniform over clips
    np.testing.assert_allclose(offset, np.broadcast_to(offset[:, :1], offset.shape), atol=1e-5)
    tenths = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(np.quantile(offset[:, 0], tenths), tenths, atol=0.03)


def test_mix_is_the_share_of_ordinary_clips():
    drawn = sigma("fixed", mix=0.3)
    scheduled = drawn == LEVELS
    assert np.all(scheduled.all(axis=1) == scheduled.any(axis=1))  # whole clips
    assert scheduled.all(axis=1).mean() == pytest.approx(0.7, abs=0.03)


def test_ordinary_levels_are_independent_and_shifted():
    drawn = sigma("fixed", levels=None, shift=3.0)
    np.testing.assert_allclose(np.median(drawn, axis=0), 0.75, atol=0.02)
    correlation = np.corrcoef(drawn.T) - np.eye(5)
    assert np.abs(correlation).max() < 0.06
    np.testing.assert_array_equal(drawn, sigma("fixed", mix=1.0, shift=3.0))


def test_levels_may_differ_by_clip():
    levels = np.random.default_rng(0).uniform(0.1, 0.9, (3, 2)).astype(np.float32)
    np.testing.assert_array_equal(noise.draw_sigma(KEY, levels, "fixed", (3, 2), mix=0.0), levels)
