"""The linear start: exact on data that its straight path can carry, and refused elsewhere."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import VAEConfig
from bvjax.errors import UserError
from bvjax.losses.reconstruction import psnr
from bvjax.nets import vae
from bvjax.train.linear_start import Halving, linear_start

CONFIG = VAEConfig(
    dim=16,
    z_dim=8,
    patch=4,
    dim_mult=(1, 1, 1),
    num_res_blocks=1,
    conv_impl="3d",
    spatial_downsample=(False, False),
    temporal_downsample=(True, True),
    latent_mean=(0.0,) * 8,
    latent_std=(1.0,) * 8,
)


def moving_blobs(count: int, seed: int):
    """Smooth clips [count, 9, 16, 16, 3] of few degrees of freedom, in [-1, 1]."""
    rng = np.random.default_rng(seed)
    t, y, x = np.meshgrid(np.arange(9) / 8, np.arange(16) / 16, np.arange(16) / 16, indexing="ij")
    clips = []
    for _ in range(count):
        speed, fy, fx, phase = rng.uniform([-0.5, 0, 0, 0], [0.5, 1.5, 1.5, 7])
        wave = np.sin(phase + fy * y * 6 + fx * x * 6 + speed * t)
        clips.append(wave[..., None] * rng.uniform(0.2, 0.9, size=3))
    return jnp.asarray(np.array(clips), jnp.float32)


def test_a_halving_gives_back_what_it_keeps():
    """By hand: channel 1 keeps its mean, channel 0 gives its place to the difference of channel 1."""
    halving = Halving(np.array([False, True]), np.array([1, -1]))
    first, second = halving.encode_matrices()
    a, b = np.array([5.0, 3.0]), np.array([7.0, 1.0])
    np.testing.assert_allclose(
        a @ first + b @ second, [1.0, 2.0]
    )  # (a1 - b1) / 2 and (a1 + b1) / 2
    back_a, back_b = halving.decode_matrices()
    np.testing.assert_allclose(np.array([1.0, 2.0]) @ back_a, [0.0, 3.0])
    np.testing.assert_allclose(np.array([1.0, 2.0]) @ back_b, [0.0, 1.0])


@pytest.mark.slow
def test_the_start_reconstructs_data_it_never_saw():
    params = linear_start(CONFIG, moving_blobs(96, 0), jax.random.key(0))
    frames = moving_blobs(8, 1)

    @jax.jit
    def roundtrip(params):
        mu, logvar = vae.encode_moments(params, CONFIG, frames)
        return mu, logvar, vae.decode_raw(params, CONFIG, mu)

    mu, logvar, recon = roundtrip(params)
    started = psnr((frames + 1) / 2, (recon + 1) / 2)
    drawn = roundtrip(vae.init_params(CONFIG, jax.random.key(0)))[2]
    assert started > 24.0  # measured 26
    assert started > psnr((frames + 1) / 2, (drawn + 1) / 2) + 8.0
    np.testing.assert_allclose(np.asarray(mu).std(axis=(0, 1, 2, 3)), 1.0, atol=0.6)
    assert np.asarray(logvar).mean() < -3


def test_it_is_refused_where_it_is_not_linear():
    with pytest.raises(UserError, match="spatial_downsample all False"):
        linear_start(VAEConfig(), moving_blobs(2, 0), jax.random.key(0))
    uneven = dataclasses.replace(CONFIG, dim_mult=(1, 1, 2))
    with pytest.raises(UserError, match="one width"):
        linear_start(uneven, moving_blobs(2, 0), jax.random.key(0))
    with pytest.raises(UserError, match="cannot fit"):
        linear_start(CONFIG, moving_blobs(1, 0)[:, :5, :4, :4], jax.random.key(0))
