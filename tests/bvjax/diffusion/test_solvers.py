"""Solvers against closed-form flows; UniPC against a slow float64 twin of its equations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import SamplerConfig
from bvjax.diffusion import solvers, unipc
from bvjax.errors import UserError

KEY = jax.random.key(5)
NOISE = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 4)), jnp.float32)
FEW = SamplerConfig(kind="few_step", steps=4, shift=5.0)


def field(x, sigma, xp=jnp):
    """A nonlinear velocity field; smooth, of order 1."""
    return xp.tanh(1.3 * x) * (1 + sigma) - 0.5 * x * sigma + 0.7 * xp.sin(3 * sigma + x)


@functools.cache
def jitted(sampler, velocity_fn):
    return jax.jit(functools.partial(solvers.solve, sampler, velocity_fn))


def run(sampler, velocity_fn=field, noise=NOISE, key=KEY):
    return np.asarray(jitted(sampler, velocity_fn)(noise, key))


renoise_step = jax.jit(solvers.renoise_step)


# --- a slow UniPC, order 2, bh2, data prediction --------------------------------------


def phi_residuals(h):
    """R-independent right-hand sides b_1, b_2 of the corrector and B(h), by the phi recursion."""
    hh = -h
    b_h = np.expm1(hh)
    phi_k, factorial, b = b_h / hh - 1.0, 1.0, []
    for order in (1, 2):
        b.append(phi_k * factorial / b_h)
        factorial *= order + 1
        phi_k = phi_k / hh - 1.0 / factorial
    return np.array(b), b_h


def slow_unipc(velocity, noise, sigma, label):
    steps = len(sigma) - 1
    lam = np.log1p(-sigma[:-1]) - np.log(sigma[:-1])
    x, outputs, last_sample, last_order, samples = noise.astype(np.float64), [], None, 0, []
    for i in range(steps):
        m = x - sigma[i] * velocity(x, label[i], np)
        if i > 0:  # corrector: from level i-1 to i with the new output as well
            h = lam[i] - lam[i - 1]
            b, b_h = phi_residuals(h)
            m0 = outputs[-1]
            base = sigma[i] / sigma[i - 1] * last_sample - (1 - sigma[i]) * np.expm1(-h) * m0
            if last_order == 1:
                residual = 0.5 * (m - m0)
            else:
                r = (lam[i - 2] - lam[i - 1]) / h
                rho = np.linalg.solve(np.array([[1.0, 1.0], [r, 1.0]]), b)
                residual = rho[0] * (outputs[-2] - m0) / r + rho[1] * (m - m0)
            x = base - (1 - sigma[i]) * b_h * residual
        outputs.append(m)
        order = min(2, steps - i, i + 1)
        last_sample, last_order = x, order
        if sigma[i + 1] == 0:
            x = m
        else:
            h = lam[i + 1] - lam[i]
            _, b_h = phi_residuals(h)
            alpha = 1 - sigma[i + 1]
            x_next = sigma[i + 1] / sigma[i] * x - alpha * np.expm1(-h) * m
            if order == 2:
                r = (lam[i - 1] - lam[i]) / h
                x_next = x_next - alpha * b_h * 0.5 * (outputs[-2] - m) / r
            x = x_next
        samples.append(x)
    return x, m


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20])
def test_unipc_equals_the_slow_one(steps, shift):
    sampler = SamplerConfig(kind="unipc", steps=steps, shift=shift)
    # Wan's grid, written out: equal steps from 0.999, shifted, 0 at the end; truncated labels
    base = np.float32(0.999) * (1 - np.arange(steps + 1) / steps)
    sigma = shift * base / (1 + (shift - 1) * base)
    label = np.floor(1000 * sigma[:-1]) / 1000
    want, m_last = slow_unipc(field, NOISE, sigma, label)
    got = run(sampler)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, want, atol=3e-5, rtol=1e-5)
    np.testing.assert_array_equal(want, m_last)


def test_unipc_corrector_and_second_order_are_at_work():
    """So the twin can tell: without the corrector, or order 2, the result is another."""
    grid = solvers.sigmas(SamplerConfig(steps=5, shift=3.0))
    full = unipc.weights(grid)
    ones, zeros = np.ones(5, np.float32), np.zeros(5, np.float32)
    uncorrected = full.replace(keep=ones, from_corrected=zeros, now=zeros, last=zeros, before=zeros)
    first_order = full.replace(next_now=full.next_now + full.next_last, next_last=zeros)

    def result(weights):
        state = unipc.init(jnp.asarray(NOISE))
        for i in range(5):
            row = jax.tree.map(lambda w, i=i: w[i], weights)
            state = unipc.step(state, field(state.x, grid[i]), grid[i], row)
        return np.asarray(state.x)

    assert np.abs(result(full) - result(uncorrected)).max() > 1e-3
    assert np.abs(result(full) - result(first_order)).max() > 1e-3


def test_unipc_last_step_is_its_own_data_prediction_exactly():
    grid = solvers.sigmas(SamplerConfig(steps=4))
    weights = jax.tree.map(lambda w: w[-1], unipc.weights(grid))
    assert all(np.isfinite(w) for w in jax.tree.leaves(weights))
    rng = np.random.default_rng(2)
    state = unipc.State(*rng.standard_normal((4, *NOISE.shape)).astype(np.float32))
    v = field(state.x, 0.6)
    got = unipc.step(state, v, 0.6, weights).x
    np.testing.assert_array_equal(got, state.x - jnp.float32(0.6) * v)


def test_unipc_step_takes_a_step_index_per_frame():
    """Frames at different steps of the grid go on as if each were alone."""
    grid = solvers.sigmas(SamplerConfig(steps=6))
    table = unipc.weights(grid)
    rng = np.random.default_rng(3)
    state = unipc.State(*(jnp.asarray(rng.standard_normal((2, 3, 4)), jnp.float32) for _ in "abcd"))
    v = jnp.asarray(rng.standard_normal((2, 3, 4)), jnp.float32)
    index = np.array([[0, 1, 3], [5, 4, 2]])  # a step of its own for each [batch, frame]
    got = unipc.step(state, v, grid[index], jax.tree.map(lambda w: w[index], table))
    for b, f in np.ndindex(2, 3):
        i = index[b, f]
        alone = unipc.step(
            jax.tree.map(lambda a, b=b, f=f: a[b, f], state),
            v[b, f],
            grid[i],
            jax.tree.map(lambda w, i=i: w[i], table),
        )
        jax.tree.map(
            lambda whole, one, b=b, f=f: np.testing.assert_allclose(whole[b, f], one, atol=1e-6),
            got,
            alone,
        )


# --- flows with known solutions -------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_euler_is_exact_for_a_constant_velocity(steps):
    v = np.random.default_rng(4).standard_normal(NOISE.shape).astype(np.float32)
    got = run(SamplerConfig(kind="euler", steps=steps), lambda x, s: jnp.asarray(v))
    np.testing.assert_allclose(got, NOISE - v, atol=1e-6)  # dx/dsigma = v from 1 to 0


@pytest.mark.parametrize(
    "sampler",
    [
        SamplerConfig(kind="euler", steps=3, shift=4.0),
        SamplerConfig(kind="unipc", steps=3, shift=1.0),  # levels 0.999, 0.666, 0.333: exact labels
        FEW,
    ],
    ids=lambda s: s.kind,
)
def test_all_kinds_are_exact_when_the_data_are_one_point(sampler):
    """For data x* the velocity is (x - x*) / sigma, linear in x, and all paths end in x*."""
    point = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    got = run(sampler, lambda x, s: (x - point) / s)
    np.testing.assert_allclose(got, np.broadcast_to(point, NOISE.shape), atol=2e-5)


def test_on_gaussian_data_unipc_converges_and_beats_euler():
    """Data N(mean, std^2): the flow keeps z of x = (1-s) mean + sqrt((1-s)^2 std^2 + s^2) z."""
    mean, std = 1.5, 0.4

    def v(x, s):
        variance = (1 - s) ** 2 * std**2 + s**2
        return (s - (1 - s) * std**2) / variance * (x - (1 - s) * mean) - mean

    def error(kind, steps):
        got = run(SamplerConfig(kind=kind, steps=steps, shift=3.0), v)
        return np.abs(got - (mean + std * NOISE)).max()

    unipc_20, unipc_40 = error("unipc", 20), error("unipc", 40)
    euler_20, euler_40 = error("euler", 20), error("euler", 40)
    assert unipc_20 < 0.5 * euler_20 and unipc_40 < 0.1 * euler_40
    assert unipc_40 < 0.25 * unipc_20  # second order at least
    assert 0.4 < euler_40 / euler_20 < 0.6  # first order


def test_gradient_passes_through_the_last_step():
    grad = jax.grad(lambda x: solvers.solve(SamplerConfig(steps=3), field, x, KEY).sum())(NOISE)
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0


# --- grids and labels -----------------------------------------------------------------


def test_few_step_levels_are_the_warped_list():
    np.testing.assert_allclose(solvers.timesteps(FEW), [1000, 937.5, 833.3333, 625], atol=1e-3)
    shift_8 = solvers.timesteps(dataclasses.replace(FEW, shift=8.0))
    np.testing.assert_allclose(shift_8, [1000, 960, 888.889, 727.273], atol=1e-3)
    # the table itself: equal steps down from 1, shifted; timestep t is its entry 1000 - t
    table = np.linspace(1, 0, 1001)[:-1]
    table = 5 * table / (1 + 4 * table)
    np.testing.assert_allclose(solvers.sigmas(FEW)[:-1], table[[0, 250, 500, 750]], atol=1e-7)


def test_unipc_levels_are_wans():
    levels = solvers.sigmas(SamplerConfig(kind="unipc", steps=50, shift=5.0))
    assert levels.dtype == np.float32 and levels.shape == (51,)
    assert levels[0] == pytest.approx(0.9998, abs=1e-6)
    assert solvers.sigmas(SamplerConfig(shift=8.0))[0] == pytest.approx(0.99987, abs=1e-5)
    labels = solvers.timesteps(SamplerConfig(kind="unipc", steps=50, shift=5.0))
    np.testing.assert_array_equal(labels, np.floor(labels))
    assert labels[0] == 999 and labels.shape == (50,)
    # whole levels are not truncated to the next lower one
    whole = solvers.timesteps(SamplerConfig(kind="unipc", steps=9, shift=1.0))
    np.testing.assert_array_equal(whole, np.arange(999, 0, -111))


def test_the_grid_of_diffusers():
    """Equal steps from 1 to 0.001, the last of them 0 instead; by hand at 2 steps and shift 3."""
    two = SamplerConfig(schedule="diffusers", steps=2, shift=3.0)
    middle = 3 * 0.5005 / (1 + 2 * 0.5005)
    np.testing.assert_allclose(solvers.sigmas(two), [1 - 1e-6, middle, 0], rtol=1e-6)
    np.testing.assert_array_equal(solvers.timesteps(two), [999, 750])
    assert all(np.isfinite(w).all() for w in jax.tree.leaves(unipc.weights(solvers.sigmas(two))))


@pytest.mark.parametrize("kind", ["unipc", "euler"])
@pytest.mark.parametrize("steps,shift", [(1, 1.0), (30, 5.0), (1000, 0.01), (1000, 100.0)])
def test_levels_descend_to_zero_and_weights_are_finite(kind, steps, shift):
    levels = solvers.sigmas(SamplerConfig(kind=kind, steps=steps, shift=shift))
    assert levels.shape == (steps + 1,) and levels[-1] == 0 and np.all(np.diff(levels) < 0)
    if kind == "unipc":
        assert all(np.isfinite(w).all() for w in jax.tree.leaves(unipc.weights(levels)))
    else:
        assert levels[0] == 1


# --- few steps ------------------------------------------------------------------------


def test_few_step_renoises_with_fresh_noise_each_step():
    """With data prediction 0 (v = x / sigma) the model sees sigma * fresh noise."""
    levels = solvers.sigmas(FEW)
    seen = [jnp.asarray(NOISE)]
    for i in range(4):
        x = seen[-1]
        seen.append(renoise_step(x, x / levels[i], levels[i], levels[i + 1], KEY, i))
    draws = [np.asarray(x) / level for x, level in zip(seen[1:4], levels[1:4], strict=True)]
    for i, draw in enumerate(draws):
        assert np.abs(draw).max() > 0.5
        assert all(np.abs(draw - other).max() > 0.5 for other in [NOISE, *draws[:i]])
    np.testing.assert_allclose(seen[4], 0.0, atol=1e-6)


def test_few_step_equals_the_loop_it_stands_for():
    levels = solvers.sigmas(FEW)
    x = jnp.asarray(NOISE)
    for i in range(4):
        x0 = x - levels[i] * field(x, levels[i])
        fresh = renoise_step(  # the draw alone: x0 = 0 at level 1
            jnp.zeros_like(x), jnp.zeros_like(x), 1.0, 1.0, KEY, i
        )
        x = (1 - levels[i + 1]) * x0 + levels[i + 1] * fresh
    np.testing.assert_allclose(run(FEW), x, atol=2e-5)


def test_few_step_is_keyed_and_rows_do_not_depend_on_the_batch():
    np.testing.assert_array_equal(run(FEW), run(FEW))
    assert np.abs(run(FEW) - run(FEW, key=jax.random.key(6))).max() > 1e-2
    np.testing.assert_allclose(run(FEW)[:1], run(FEW, noise=NOISE[:1]), atol=1e-6)


# --- one trace, and refusals ----------------------------------------------------------


@pytest.mark.parametrize(
    "sampler", [SamplerConfig(), SamplerConfig("euler"), FEW], ids=lambda s: s.kind
)
def test_model_is_traced_once_whatever_the_steps(sampler):
    calls = []

    def velocity_fn(x, sigma):
        calls.append((x.dtype, sigma.shape))
        return field(x, sigma).astype(jnp.bfloat16)

    got = run(sampler, velocity_fn, noise=NOISE.astype(jnp.bfloat16))
    assert calls == [(jnp.float32, ())]
    assert got.dtype == np.float32


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"kind": "ddim"}, "unipc, euler, few_step"),
        ({"schedule": "sd3"}, "wan, diffusers"),
        ({"corrector": "pc"}, "unipc, skyreels"),
        ({"steps": 0}, "1 to 1000"),
        ({"steps": 1001}, "1 to 1000"),
        ({"shift": 0.0}, "0.01 to 100"),
        ({"shift": float("nan")}, "0.01 to 100"),
        ({"kind": "few_step", "steps": 5}, "sampler.steps=4"),
        ({"kind": "few_step", "steps": 2, "few_step": (500.0, 750.0)}, "descending"),
        ({"kind": "few_step", "steps": 2, "few_step": (1000.0, 0.0)}, "from 1 to 1000"),
        ({"kind": "few_step", "steps": 1, "few_step": (999.5,)}, "whole"),
    ],
)
def test_bad_samplers_are_refused_in_one_sentence(changes, words):
    with pytest.raises(UserError, match="sampler") as error:
        solvers.sigmas(SamplerConfig(**changes))
    assert words in str(error.value)
