"""Losses and image measures against closed forms and slow loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.losses import reconstruction as rec

_RNG = np.random.default_rng(3)


def _uniform(*shape, low=0.0, high=1.0):
    return jnp.asarray(_RNG.uniform(low, high, size=shape), jnp.float32)


def test_psnr_is_per_image():
    a = _uniform(2, 8, 9, 3, high=0.5)
    b = a + jnp.array([0.1, 0.01]).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(rec.psnr(a, b), (20 + 40) / 2, rtol=1e-4)
    np.testing.assert_allclose(rec.psnr(a, a), 100, rtol=1e-5)


def _slow_ssim(a, b):
    """Window by window, as Wang et al. 2004 write it."""
    offset = np.arange(11) - 5
    g = np.exp(-(offset**2) / (2 * 1.5**2))
    window = np.outer(g, g) / np.outer(g, g).sum()
    values = []
    for n, c in np.ndindex(a.shape[0], a.shape[-1]):
        for i, j in np.ndindex(a.shape[1] - 10, a.shape[2] - 10):
            x, y = a[n, i : i + 11, j : j + 11, c], b[n, i : i + 11, j : j + 11, c]
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            cov = (window * (x - mx) * (y - my)).sum()
            c1, c2 = 1e-4, 9e-4
            ratio = (2 * mx * my + c1) * (2 * cov + c2)
            values.append(ratio / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return np.mean(values)


def test_ssim_is_the_slow_loop():
    a = _uniform(2, 13, 15, 3)
    b = jnp.clip(0.6 * a + 0.4 * _uniform(2, 13, 15, 3), 0, 1)
    want = _slow_ssim(np.asarray(a, np.float64), np.asarray(b, np.float64))
    assert 0.2 < want < 0.95
    np.testing.assert_allclose(rec.ssim(a, b), want, atol=1e-4)
    np.testing.assert_allclose(rec.ssim(a[None], a[None]), 1.0, atol=1e-5)


def test_ssim_needs_a_window():
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, got 10 x 20"):
        rec.ssim(jnp.zeros((10, 20, 3)), jnp.zeros((10, 20, 3)))


def test_kl_is_the_integral():
    mu, logvar = 0.7, -0.8
    x = np.linspace(-12, 12, 200_001)
    q = np.exp(-0.5 * (x - mu) ** 2 / np.exp(logvar)) / np.sqrt(2 * np.pi * np.exp(logvar))
    log_p = -0.5 * x**2 - 0.5 * np.log(2 * np.pi)
    integrand = np.where(q > 0, q * (np.log(np.maximum(q, 1e-300)) - log_p), 0)
    want = integrand.sum() * (x[1] - x[0])
    got = rec.gaussian_kl(jnp.array([mu]), jnp.array([logvar]))
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_sample_latents_has_the_moments():
    mu, logvar = jnp.full((40_000,), 0.5), jnp.full((40_000,), -1.0)
    z = rec.sample_latents(jax.random.key(0), mu, logvar)
    np.testing.assert_allclose(z.mean(), 0.5, atol=0.02)
    np.testing.assert_allclose(z.std(), np.exp(-0.5), atol=0.02)


def test_loss_terms():
    frames = _uniform(2, 3, 12, 14, 3, low=-0.5, high=0.5)
    mu, logvar = _uniform(2, 1, 1, 1, 4), _uniform(2, 1, 1, 1, 4, low=-1.0)
    weights = dict(kl_weight=0.3, edge_weight=2.0)
    # A constant error has no edges.
    loss, metrics = rec.reconstruction_loss(frames, frames + 0.2, mu, logvar, **weights)
    np.testing.assert_allclose(metrics["l1"], 0.2, rtol=1e-3)
    np.testing.assert_allclose(metrics["edge"], 0.0, atol=1e-6)
    np.testing.assert_allclose(metrics["psnr"], 20.0, rtol=1e-4)  # 0.2 of [-1, 1] is 0.1 of [0, 1]
    np.testing.assert_allclose(loss, 0.2 + 0.3 * metrics["kl"], rtol=1e-3)
    squared, _ = rec.reconstruction_loss(
        frames, frames + 0.2, mu, logvar, mse_weight=5.0, **weights
    )
    np.testing.assert_allclose(squared - loss, 5.0 * 0.04, rtol=1e-3)
    # A ramp of slope s along the width has differences s there and 0 along the height.
    ramp = 0.01 * jnp.arange(14.0).reshape(14, 1)
    loss, metrics = rec.reconstruction_loss(frames, frames + ramp, mu, logvar, **weights)
    np.testing.assert_allclose(metrics["edge"], 0.005, rtol=1e-3)
    total = metrics["l1"] + 2.0 * metrics["edge"] + 0.3 * metrics["kl"]
    np.testing.assert_allclose(loss, total, rtol=1e-5)


def test_loss_pulls_back_from_outside_the_range():
    frames, mu = jnp.ones((1, 1, 12, 12, 3)), jnp.ones((1, 1, 1, 1, 4))
    loss = lambda r: rec.reconstruction_loss(frames, r, mu, mu, kl_weight=1.0, edge_weight=0.0)[0]
    assert (jax.grad(loss)(1.5 * frames) > 0).all()


def test_latents_drawn_anew_keep_their_spread_and_lose_what_the_level_hides():
    std, level = jnp.array([1.0, 0.3, 0.05]), jnp.array([0.0, 0.1, 0.5]).reshape(3, 1, 1, 1, 1)
    z = std * jax.random.normal(jax.random.key(0), (3, 50, 20, 20, 3))
    drawn = rec.drawn_anew(jax.random.key(1), z, std, level)
    np.testing.assert_array_equal(drawn[0], z[0])
    np.testing.assert_allclose(jnp.std(drawn, axis=(1, 2, 3)), std[None].repeat(3, 0), rtol=0.02)
    for clip in (1, 2):
        for channel in range(3):
            pair = np.corrcoef(drawn[clip, ..., channel].ravel(), z[clip, ..., channel].ravel())
            signal = float(std[channel]) ** 2
            expected = signal / (signal + float(level[clip].squeeze()) ** 2)
            np.testing.assert_allclose(pair[0, 1], expected, atol=0.02)
