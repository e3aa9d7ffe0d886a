"""The interpolant, its velocity, the sigma shift and guidance, against their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.diffusion import flow

RNG = np.random.default_rng(0)
X0, EPS = (RNG.standard_normal((2, 3, 4, 5, 5, 2)).astype(np.float32) for _ in range(2))


@pytest.mark.parametrize("axes", [0, 1, 2, 3])
def test_eq_2_takes_levels_per_clip_chunk_or_frame(axes):
    sigma = RNG.uniform(size=X0.shape[:axes]).astype(np.float32)
    got = flow.interpolate(X0, EPS, sigma)
    for index in np.ndindex(X0.shape):
        s = float(sigma[index[:axes]])
        if sum(index) % 7 == 0:  # a sample of the entries
            want = (1 - s) * float(X0[index]) + s * float(EPS[index])
            assert got[index] == pytest.approx(want, abs=1e-6)


def test_ends_of_the_path_are_data_and_noise():
    np.testing.assert_array_equal(flow.interpolate(X0, EPS, 0.0), X0)
    np.testing.assert_array_equal(flow.interpolate(X0, EPS, 1.0), EPS)


def test_eq_3_and_4_velocity_is_the_derivative_of_the_path():
    _, slope = jax.jvp(lambda s: flow.interpolate(X0, EPS, s), (0.3,), (1.0,))
    np.testing.assert_allclose(flow.velocity(X0, EPS), slope, atol=1e-6)


def test_x0_from_velocity_inverts_the_path():
    sigma = RNG.uniform(size=(2, 3)).astype(np.float32)
    x = flow.interpolate(X0, EPS, sigma)
    np.testing.assert_allclose(flow.x0_from_velocity(x, EPS - X0, sigma), X0, atol=1e-5)


def test_sigma_arithmetic_is_float32_for_bfloat16_latents():
    x0 = jnp.asarray(X0, jnp.bfloat16)
    assert flow.interpolate(x0, x0, 0.3).dtype == jnp.float32
    assert flow.x0_from_velocity(x0, x0, jnp.bfloat16(0.5)).dtype == jnp.float32


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 5.0, 8.0])
def test_shift_keeps_the_ends_rises_and_moves_the_middle(shift):
    sigma = flow.shift_sigma(np.linspace(0, 1, 101), shift)
    assert sigma[0] == 0 and sigma[-1] == 1 and np.all(np.diff(sigma) > 0)
    assert sigma[50] == pytest.approx(shift / (1 + shift))
    # the shift multiplies the odds sigma / (1 - sigma)
    np.testing.assert_allclose(
        sigma[1:-1] / (1 - sigma[1:-1]), shift * np.arange(1, 100) / np.arange(99, 0, -1)
    )


def test_shifts_compose_by_multiplication():
    twice = flow.shift_sigma(flow.shift_sigma(0.37, 2.0), 4.0)
    assert twice == pytest.approx(flow.shift_sigma(0.37, 8.0))


def test_guidance_extrapolates_from_null_to_text():
    np.testing.assert_array_equal(flow.guide(X0, EPS, 0.0), EPS)
    np.testing.assert_allclose(flow.guide(X0, EPS, 1.0), X0, atol=1e-6)
    np.testing.assert_allclose(flow.guide(X0, EPS, 5.0), 5 * X0 - 4 * EPS, atol=1e-5)
    scales = jnp.linspace(0.0, 5.0, len(X0)).reshape(-1, *[1] * (X0.ndim - 1))
    for row, scale in enumerate(scales.ravel()):
        want = flow.guide(X0[row], EPS[row], float(scale))
        np.testing.assert_allclose(flow.guide(X0, EPS, scales)[row], want, atol=1e-5)
