"""The timetable against tables written by hand; the sampler against a loop and the ordinary solvers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.config import SamplerConfig
from bvjax.diffusion import diffusion_forcing as df
from bvjax.diffusion import solvers
from bvjax.errors import UserError

KEY = jax.random.key(2)
RNG = np.random.default_rng(0)
NOISE = jnp.asarray(RNG.standard_normal((1, 6, 3, 2)), jnp.float32)
HISTORY = RNG.standard_normal((1, 2, 3, 2)).astype(np.float32)


# --- the timetable --------------------------------------------------------------------


def test_blocks_in_a_row_by_hand():
    """Three steps, three blocks of two frames, each two steps behind the one before."""
    table = df.timetable(np.array([900.0, 700.0, 400.0]), 6, ar_step=2, block=2)
    counts = np.array(
        [
            [1, 0, 0],
            [2, 0, 0],
            [3, 1, 0],
            [4, 2, 0],
            [4, 3, 1],
            [4, 4, 2],
            [4, 4, 3],
        ]
    )
    labels = np.array([999, 900, 700, 400, 0])[counts]
    update = np.array(
        [
            [1, 0, 0],
            [1, 0, 0],
            [1, 1, 0],
            [0, 1, 0],
            [0, 1, 1],
            [0, 0, 1],
            [0, 0, 1],
        ]
    )
    for got, want in ((table.count, counts), (table.timestep, labels), (table.update, update)):
        np.testing.assert_array_equal(got, np.repeat(want, 2, axis=1))
    np.testing.assert_array_equal(table.interval, [[0, 6]] * 7)


def test_history_is_finished_and_the_rest_goes_together():
    table = df.timetable(np.array([900.0, 500.0]), 4, ready=1)
    np.testing.assert_array_equal(table.count, [[3, 1, 1, 1], [3, 2, 2, 2]])
    np.testing.assert_array_equal(table.timestep, [[0, 900, 900, 900], [0, 500, 500, 500]])
    np.testing.assert_array_equal(table.update, [[False, True, True, True]] * 2)


def test_the_interval_slides_over_a_sequence_longer_than_the_window():
    table = df.timetable(np.array([900.0, 500.0]), 4, window=2, ar_step=1)
    assert table.interval.tolist() == [[0, 2], [0, 2], [1, 3], [2, 4], [2, 4]]
    for update, (start, stop) in zip(table.update, table.interval, strict=True):
        assert not update[:start].any() and not update[stop:].any()


def test_the_sizes_of_skyreels():
    """30 steps, 25 latent frames: 30 iterations at once, 50 with blocks of 5 that lag 5 steps."""
    labels = solvers.timesteps(SamplerConfig(steps=30, shift=8.0))
    assert df.timetable(labels, 25, ready=5).count.shape == (30, 25)
    assert df.timetable(labels, 25, ar_step=5, block=5).count.shape == (50, 25)
    assert df.timetable(labels, 25, ready=5, ar_step=5, block=5).count.shape == (45, 25)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 9),
    blocks=st.integers(1, 6),
    block=st.integers(1, 3),
    ready=st.integers(0, 5),
    ar_step=st.integers(0, 12),
)
def test_every_free_frame_takes_every_step_once_in_order(steps, blocks, block, ready, ar_step):
    ready = min(ready, blocks - 1)
    labels = np.linspace(990, 10, steps).astype(np.float32)
    table = df.timetable(labels, blocks * block, ready=ready * block, ar_step=ar_step, block=block)
    for f in range(blocks * block):
        taken = table.count[table.update[:, f], f]
        assert taken.tolist() == ([] if f < ready * block else list(range(1, steps + 1)))
        np.testing.assert_array_equal(
            table.timestep[table.update[:, f], f], [] if f < ready * block else labels
        )
    assert table.update.any(1).all()  # no iteration for nothing
    lag = table.count[:, block:] - table.count[:, :-block]
    assert (
        lag[(table.count[:, :-block] <= steps) & (table.count[:, block:] > 0)] == -ar_step
    ).all()


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"frames": 5, "block": 2}, "must divide the 5 latent frames of the window"),
        ({"frames": 6, "block": 2, "ready": 1}, "must divide the 1 latent frames of the history"),
        ({"frames": 6, "block": 2, "window": 3}, "must divide the 3 latent frames of the interval"),
        ({"frames": 6, "window": 2, "ar_step": 1}, "it must be 2 or more"),
    ],
)
def test_sizes_that_do_not_fit(arguments, says):
    with pytest.raises(UserError, match=says):
        df.timetable(np.array([900.0, 500.0, 300.0]), **arguments)


# --- the sampler ----------------------------------------------------------------------


def alone(x, sigma):
    """A field that couples no frames."""
    sigma = jnp.reshape(sigma, (1, -1, 1, 1))
    return jnp.tanh(1.3 * x) * (1 + sigma) - 0.5 * x * sigma + 0.7 * jnp.sin(3 * sigma + x)


def coupled(x, sigma):
    """One in which every frame feels all frames and their labels."""
    mean = x.mean(axis=1, keepdims=True) * (1 + sigma.mean())
    return alone(x, sigma) + jnp.sin(2 * mean)


def run(sampler, field, history=None, noise=NOISE, key=KEY):
    solve = jax.jit(functools.partial(df.solve, sampler, field))
    return np.asarray(solve(noise, history, key))


@pytest.mark.parametrize("kind", ["unipc", "euler"])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_lag_changes_nothing_where_frames_are_alone(kind, block):
    """Each frame has a solver of its own: when it takes its steps does not matter."""
    sampler = SamplerConfig(kind=kind, steps=5, shift=3.0, causal_block=block)
    whole = solvers.solve(sampler, lambda x, s: alone(x, jnp.full(6, s)), NOISE, KEY)
    for ar_step in (0, 2, 9):
        lagging = dataclasses.replace(sampler, ar_step=ar_step)
        np.testing.assert_allclose(run(lagging, alone), whole, atol=1e-5)
    assert np.abs(run(lagging, coupled) - run(sampler, coupled)).max() > 1e-2


def test_clean_history_is_what_the_ordinary_solver_would_be_given():
    sampler = SamplerConfig(steps=4, shift=5.0)

    def behind(x, sigma):
        levels = jnp.where(jnp.arange(6) < 2, 0.0, sigma)
        return coupled(jnp.concatenate([HISTORY, x], 1), levels)[:, 2:]

    want = solvers.solve(sampler, behind, NOISE[:, 2:], KEY)
    got = run(sampler, coupled, HISTORY)
    np.testing.assert_array_equal(got[:, :2], HISTORY)
    np.testing.assert_allclose(got[:, 2:], want, atol=1e-5)


def test_noised_history_by_hand():
    """Euler, step by step: fresh noise at its own label goes in, and the history comes out clean."""
    sampler = SamplerConfig(kind="euler", steps=3, shift=2.0, history_noise=50.0)
    grid = solvers.sigmas(sampler)
    x = NOISE[:, 2:]
    for k in range(3):
        fresh = df.history_noise(KEY, k, HISTORY.shape)
        seen = jnp.concatenate([0.95 * HISTORY + 0.05 * fresh, x], axis=1)
        v = coupled(seen, jnp.array([0.05, 0.05] + [grid[k]] * 4))
        x = x + (grid[k + 1] - grid[k]) * v[:, 2:]
    got = run(sampler, coupled, HISTORY)
    np.testing.assert_array_equal(got[:, :2], HISTORY)
    np.testing.assert_allclose(got[:, 2:], x, atol=1e-5)
    assert np.abs(got - run(sampler, coupled, HISTORY, key=jax.random.key(3))).max() > 1e-3
    draws = [np.asarray(df.history_noise(KEY, k, HISTORY.shape)) for k in (0, 1)]
    assert np.abs(draws[0] - draws[1]).max() > 0.5


def test_waiting_frames_are_labelled_as_not_begun_and_stay():
    seen = []

    def spy(x, sigma):
        jax.debug.callback(lambda x, s: seen.append((np.array(x), np.array(s))), x, sigma)
        return coupled(x, sigma)

    run(SamplerConfig(steps=2, ar_step=2, causal_block=3), spy)
    jax.effects_barrier()
    seen.sort(key=lambda pair: -pair[1].sum())
    assert len(seen) == 4
    for x, sigma in seen[:2]:
        np.testing.assert_array_equal(x[:, 3:], NOISE[:, 3:])
        np.testing.assert_allclose(sigma[3:], 0.999)
    for _, sigma in seen[2:]:
        np.testing.assert_array_equal(sigma[:3], 0)


@pytest.mark.parametrize(
    "changes, history, want",
    [
        ({}, 2, False),
        ({"history_noise": 20.0}, 0, False),
        ({"history_noise": 20.0}, 2, True),
        ({"ar_step": 5}, 0, True),
        ({"causal_block": 5}, 2, False),
    ],
)
def test_wanted(changes, history, want):
    assert df.is_required(SamplerConfig(**changes), history) is want
