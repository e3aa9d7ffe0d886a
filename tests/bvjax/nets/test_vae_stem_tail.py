"""The VAE's stem and tail: silent at first, exact when streamed, refused where they cannot go."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import VAEConfig
from bvjax.conversion.formats import specs
from bvjax.errors import UserError
from bvjax.nets import vae, vae_layers
from bvjax.presets import get_preset

CONFIG = VAEConfig(
    dim=6, z_dim=3, patch=4, dim_mult=(1, 1), num_res_blocks=1, conv_impl="winograd",
    spatial_downsample=(False,), temporal_downsample=(True,),
    latent_mean=(0.1, 0.2, 0.3), latent_std=(1.0, 2.0, 3.0), latent_scale=(1.0, 0.5, 0.2),
    first_mean=(-0.3, 0.0, 0.7), first_std=(0.5, 0.4, 0.3),
    stem_dim=4, tail_dim=5, stem_patch=2,
)  # fmt: skip
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.partial(_jit, static_argnames="first")
def encode(params, state, frames, first):
    return vae.encode_stream(params, CONFIG, state, frames, first=first)


@functools.partial(_jit, static_argnames="first")
def decode(params, state, latents, first):
    return vae.decode_stream(params, CONFIG, state, latents, first=first)


@pytest.fixture(scope="module")
def params():
    """Nothing is zero or one."""
    rng = np.random.default_rng(0)
    draw = lambda a: a + (0.2 if a.ndim == 1 else 0.1) * rng.normal(size=a.shape).astype(np.float32)
    return jax.tree.map(draw, vae.init_params(CONFIG, jax.random.key(0), 8, 12))


def test_streamed_is_whole(params):
    frames = np.random.default_rng(1).uniform(-1, 1, size=(2, 7, 8, 12, 3)).astype(np.float32)
    start = vae.init_encode_state(CONFIG, 2, 8, 12)
    _, whole = encode(params, start, frames, True)
    state, first = encode(params, start, frames[:, :3], True)
    _, rest = encode(params, state, frames[:, 3:], False)
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), whole, atol=1e-5)

    start = vae.init_decode_state(CONFIG, 2, 8, 12)
    _, video = decode(params, start, whole, True)
    assert video.shape == frames.shape
    state, first = decode(params, start, whole[:, :2], True)
    _, rest = decode(params, state, whole[:, 2:], False)
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), video, atol=1e-5)


def test_first_latents_are_normalised_by_their_own_statistics():
    mu = np.random.default_rng(2).normal(size=(1, 3, 1, 1, 3)).astype(np.float32)
    found = vae.normalise(CONFIG, mu)
    np.testing.assert_allclose(found[0, 0, 0, 0, 1], mu[0, 0, 0, 0, 1] / 0.4 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(
        found[0, 1, 0, 0], (mu[0, 1, 0, 0] - [0.1, 0.2, 0.3]) / [1.0, 4.0, 15.0], rtol=1e-5
    )
    for first in (True, False):
        back = vae.denormalise(CONFIG, vae.normalise(CONFIG, mu, first), first)
        np.testing.assert_allclose(back, mu, rtol=1e-5)


def test_a_fresh_network_is_as_without_them():
    fresh = vae.init_params(CONFIG, jax.random.key(0), 8, 12)
    for name in ("stem", "tail"):
        assert not np.any(fresh[name]["head_2"]["kernel"])
    assert vae.ENCODING[0] == "stem"  # frozen with the encoder
    bare = vae.init_params(
        dataclasses.replace(CONFIG, stem_dim=0, tail_dim=0), jax.random.key(0), 8, 12
    )
    assert set(fresh) - set(bare) == {"stem", "tail"}


def test_the_gradient_of_a_flat_convolution():
    rng = np.random.default_rng(3)
    x, kernel, g = (
        jnp.asarray(rng.normal(size=s), jnp.float32)
        for s in ((5, 6, 4, 3), (3, 3, 3, 2), (5, 6, 4, 2))
    )
    plain = lambda x, k: vae_layers.conv_2d(x, k, stride=1, padding=((1, 1), (1, 1)))
    for a, b in zip(
        jax.vjp(plain, x, kernel)[1](g),
        jax.vjp(vae_layers._flat_conv, x, kernel)[1](g),
        strict=True,
    ):
        np.testing.assert_allclose(b, a, atol=1e-4)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"vae.stem_patch is 3; .* divide vae.patch = 4"):
        dataclasses.replace(CONFIG, stem_patch=3)
    with pytest.raises(UserError, match="vae.tail_dim is -1"):
        dataclasses.replace(CONFIG, tail_dim=-1)
    with pytest.raises(UserError, match="vae.first_std 0; both"):
        dataclasses.replace(CONFIG, first_std=())
    model = dataclasses.replace(get_preset("mini"), vae=CONFIG)
    with pytest.raises(
        UserError, match="has no place for what vae.stem_dim, vae.tail_dim, vae.first_std adds"
    ):
        specs(model, "vae", "diffusers")
    assert any(spec.name.startswith("tail/") for spec in specs(model, "vae", "bvjax"))
