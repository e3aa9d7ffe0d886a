"""Eq. 5 in every reading, and the semantic reference it leans on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.losses.block_forcing import (
    BlockForcingConfig,
    block_forcing_loss,
    path_end,
    resample_time,
    semantic_reference,
)

SHAPE = (2, 3, 4, 2, 2, 5)


@pytest.fixture(scope="module")
def arrays():
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(k, SHAPE) for k in keys]


def loss_of(arrays, **kwargs):
    history = jnp.array([[True, True, False], [True, False, True]])
    return np.asarray(block_forcing_loss(*arrays, history, BlockForcingConfig(**kwargs))), history


def mse(a, b):
    return np.mean(np.square(np.asarray(a - b)), axis=(2, 3, 4, 5))


def test_fm_is_eq_3(arrays):
    v, noise, x, _ = arrays
    np.testing.assert_allclose(loss_of(arrays, target="fm")[0], mse(v, noise - x), rtol=1e-6)


def test_literal_has_no_x_start(arrays):
    v, noise, x, cond = arrays
    got, history = loss_of(arrays, target="literal", gamma=0.3)
    want = np.where(history, mse(v, noise - 0.3 * cond), mse(v, noise - x))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_blend_and_gamma_zero(arrays):
    v, noise, x, cond = arrays
    got, history = loss_of(arrays, gamma=0.25)
    want = np.where(history, mse(v, noise - 0.75 * x - 0.25 * cond), mse(v, noise - x))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(
        loss_of(arrays, gamma=0.0)[0], loss_of(arrays, target="fm")[0], rtol=1e-6
    )


def test_two_term_with_gamma_one_has_the_gradient_of_blend(arrays):
    """C with gamma = 1 and weight lam is, up to scale, B with gamma = lam / (1 + lam)."""
    v, *rest = arrays
    history = jnp.ones(SHAPE[:2], bool)
    lam = 0.5

    def gradient(config):
        return jax.grad(lambda v: block_forcing_loss(v, *rest, history, config).sum())(v)

    two = gradient(BlockForcingConfig(target="two_term", gamma=1.0, lam=lam))
    blend = gradient(BlockForcingConfig(target="blend", gamma=lam / (1 + lam)))
    np.testing.assert_allclose(two, (1 + lam) * blend, rtol=2e-5, atol=1e-7)


def test_reference_is_the_mean_of_the_valid_entries():
    sources = jax.random.normal(jax.random.key(1), (1, 4, 3, 2, 2, 5))
    index = jnp.array([[[0, 2], [1, 3], [3, 0]]])
    valid = jnp.array([[[True, True], [True, False], [False, False]]])
    scores = jnp.array([[[0.0, 1.0], [0.3, 9.0], [0.0, 0.0]]])
    got, has = semantic_reference(sources, index, valid, scores, BlockForcingConfig(), 3)
    np.testing.assert_allclose(got[0, 0], (sources[0, 0] + sources[0, 2]) / 2, rtol=1e-6)
    np.testing.assert_allclose(got[0, 1], sources[0, 1], rtol=1e-6)
    np.testing.assert_array_equal(got[0, 2], np.zeros_like(got[0, 2]))
    np.testing.assert_array_equal(has, [[True, True, False]])
    weighed, _ = semantic_reference(
        sources, index, valid, scores, BlockForcingConfig(cond_weights="similarity"), 3
    )
    w = np.exp(1) / (1 + np.exp(1))
    np.testing.assert_allclose(
        weighed[0, 0], (1 - w) * sources[0, 0] + w * sources[0, 2], rtol=1e-5
    )


def test_reference_stops_the_gradient():
    sources = jax.random.normal(jax.random.key(1), (1, 2, 3, 2, 2, 5))
    index, valid = jnp.zeros((1, 1, 1), int), jnp.ones((1, 1, 1), bool)

    def total(s):
        return semantic_reference(s, index, valid, jnp.zeros((1, 1, 1)), BlockForcingConfig(), 3)[
            0
        ].sum()

    assert not np.any(jax.grad(total)(sources))


def test_resample_time_is_linear_with_half_pixel_centres():
    ramp = jnp.arange(4.0).reshape(4, 1, 1, 1)
    np.testing.assert_allclose(resample_time(ramp, 2)[:, 0, 0, 0], [0.5, 2.5], atol=1e-6)
    np.testing.assert_array_equal(resample_time(ramp, 4), ramp)


@pytest.mark.parametrize("bad", [{"target": "blnd"}, {"gamma": 1.5}, {"fallback": "none"}])
def test_bad_values_are_refused(bad):
    with pytest.raises(UserError, match="block_forcing"):
        BlockForcingConfig(**bad)


def test_temperature_of_similarities():
    """Cosines of 0.9 and 0.8 are told apart at a temperature of 0.05: weights e^2 to 1."""
    sources = jnp.stack([jnp.full((1, 1, 1, 1), 1.0), jnp.full((1, 1, 1, 1), 3.0)])[None]
    index, valid = jnp.array([[[0, 1]]]), jnp.ones((1, 1, 2), bool)
    scores = jnp.array([[[0.9, 0.8]]])
    config = BlockForcingConfig(cond_weights="similarity", cond_temperature=0.05)
    got, _ = semantic_reference(sources, index, valid, scores, config, 1)
    first = np.exp(2) / (np.exp(2) + 1)
    np.testing.assert_allclose(float(got.squeeze()), first + 3 * (1 - first), rtol=1e-5)
    with pytest.raises(UserError, match="cond_temperature is 0.0; it must be a number above 0"):
        BlockForcingConfig(cond_temperature=0.0)


def sampled(target, levels, gamma=0.25):
    """The end of Euler steps along the perfect velocity of `target`, of a data set with one x_start and one x_cond."""
    config = BlockForcingConfig(target=target, gamma=gamma)
    x_start, x_cond, history = 2.0, 6.0, jnp.ones((1, 1), bool)
    shape = (1, 1, 1, 1, 1, 1)
    start, cond = jnp.full(shape, x_start), jnp.full(shape, x_cond)
    end = float(path_end(start, cond, history, config).squeeze())
    pulled = (1 - gamma) * x_start + gamma * x_cond
    x = 0.7
    for sigma, following in zip(levels, levels[1:], strict=False):
        eps = (x - (1 - sigma) * end) / sigma  # all that is not the end of the path is noise
        x += (following - sigma) * (eps - pulled)
    return x


def test_sampling_with_blend_ends_at_x_start_but_for_the_last_step():
    """What is left is gamma times the last level, of x_cond - x_start; with `blend_path` all of gamma."""
    coarse, fine = np.linspace(1, 0, 5), np.linspace(1, 0, 401)
    assert sampled("blend", coarse) == pytest.approx(2 + 0.25 * 0.25 * 4)
    assert sampled("blend", fine) == pytest.approx(2 + 0.25 * 0.0025 * 4)
    assert sampled("blend_path", coarse) == pytest.approx(2 + 0.25 * 4)
    none = jnp.zeros((1, 1), bool)
    start = jnp.full((1, 1, 1, 1, 1, 1), 2.0)
    config = BlockForcingConfig(target="blend_path")
    np.testing.assert_array_equal(path_end(start, start + 1, none, config), start)
