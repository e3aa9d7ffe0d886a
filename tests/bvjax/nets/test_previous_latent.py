"""The last latent before a chunk: the guess of the velocity from it, and what the network does with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import DiTConfig
from bvjax.errors import UserError
from bvjax.nets import dit
from bvjax.nets.previous_latent import PreviousLatent, explained
from tests.support.random_params import random_like

FRAMES, SIDE, Z, DT = 3, 4, 2, 6
CFG = DiTConfig(
    dim=32,
    num_heads=2,
    num_layers=1,
    ffn_dim=16,
    freq_dim=8,
    in_channels=Z,
    out_channels=Z,
    preconditioning="linear",
    latent_std=(0.5, 2.0),
    previous_latent=True,
    latent_correlation=(0.9, 0.4),
)


@pytest.mark.parametrize("sigma", [0.2, 0.7, 1.0])
def test_the_guess_is_the_least_squares_one_of_an_autoregression(sigma):
    """Against a regression on 400,000 draws of x_d = r x_{d-1} + noise, for each channel and frame."""
    rng, count = np.random.default_rng(0), 400_000
    std, r = np.array(CFG.latent_std), np.array(CFG.latent_correlation)
    before = std * rng.standard_normal((count, Z))
    frames, last = [], before
    for _ in range(FRAMES):
        last = r * last + np.sqrt(1 - r**2) * std * rng.standard_normal((count, Z))
        frames.append(last)
    clean = np.stack(frames, 1)
    noise = rng.standard_normal(clean.shape)
    noisy = (1 - sigma) * clean + sigma * noise

    grid = lambda x: jnp.asarray(x, jnp.float32).reshape(1, 1, FRAMES, 1, 1, Z)
    previous = lambda x: PreviousLatent(
        jnp.asarray(x, jnp.float32).reshape(1, 1, 1, 1, Z), jnp.ones((1, 1), bool)
    )

    def guess(x, b):
        mean, share = explained(previous(b), CFG.latent_correlation, FRAMES)
        level = jnp.full((1, 1, 1), sigma)
        return dit.add_linear_guess(0.0 * grid(x), grid(x), level, CFG.latent_std, mean, share)

    one, zero = np.ones((FRAMES, Z)), np.zeros((FRAMES, Z))
    of_noisy = np.asarray(guess(one, zero[0])).reshape(FRAMES, Z)
    of_before = np.asarray(guess(zero, one[0])).reshape(FRAMES, Z)
    for d in range(FRAMES):
        for z in range(Z):
            known = np.stack([noisy[:, d, z], before[:, z]], 1)
            want = np.linalg.lstsq(known, (noise - clean)[:, d, z], rcond=None)[0]
            np.testing.assert_allclose([of_noisy[d, z], of_before[d, z]], want, atol=0.02)


def test_what_is_left_has_variance_one():
    """The scale of the network's part: the velocity's error after the guess is sqrt(v / s) in every channel."""
    rng, count, sigma = np.random.default_rng(1), 200_000, 0.6
    std, r = np.array(CFG.latent_std), np.array(CFG.latent_correlation)
    before = std * rng.standard_normal((1, count, 1, 1, Z))
    clean = r * before + np.sqrt(1 - r**2) * std * rng.standard_normal(before.shape)
    noise = rng.standard_normal(clean.shape)
    known = PreviousLatent(jnp.asarray(before), jnp.ones((1, count), bool))
    mean, share = explained(known, CFG.latent_correlation, 1)
    latents = jnp.asarray((1 - sigma) * clean + sigma * noise)[:, :, None]
    level = jnp.full((1, count, 1), sigma)
    zero, one = (
        dit.add_linear_guess(
            x * jnp.ones_like(latents), latents, level, CFG.latent_std, mean, share
        )
        for x in (0.0, 1.0)
    )
    left = ((noise - clean)[:, :, None] - np.asarray(zero)) / np.asarray(one - zero)
    np.testing.assert_allclose(left.var(axis=(0, 1, 2, 3, 4)), 1.0, rtol=0.02)


def inputs(known):
    keys = jax.random.split(jax.random.key(0), 3)
    latents = jax.random.normal(keys[0], (2, 2, FRAMES, SIDE, SIDE, Z))
    before = PreviousLatent(jax.random.normal(keys[1], (2, 2, SIDE, SIDE, Z)), jnp.array(known))
    text = jax.random.normal(keys[2], (2, 2, 3, DT))
    t, h, w = np.meshgrid(np.arange(FRAMES), np.arange(2), np.arange(2), indexing="ij")
    positions = np.broadcast_to(np.stack([t, h, w], -1).reshape(-1, 3), (2, 2, FRAMES * 4, 3))
    return (latents, jnp.full((2, 2), 0.8), text, jnp.asarray(positions)), before


def test_only_chunks_that_have_one_are_told():
    shapes = jax.eval_shape(lambda key: dit.init_params(CFG, DT, key), jax.random.key(0))
    params = random_like(shapes, seed=1)
    apply = jax.jit(
        lambda p, x, before: dit.WanDiT(CFG, DT).apply({"params": p}, *x, previous=before)[0]
    )
    chunks, before = inputs([[True, False], [False, True]])
    told, alone = apply(params, chunks, before), apply(params, chunks, None)
    for clip, chunk in np.ndindex(2, 2):
        differs = np.abs(told[clip, chunk] - alone[clip, chunk]).max(axis=(1, 2, 3))
        assert (differs > 1e-2).all() if before.known[clip, chunk] else not differs.any()
    # The embedding alone: without it the network's part does not depend on the latent.
    silent = params | {
        "previous_embedding": jax.tree.map(jnp.zeros_like, params["previous_embedding"])
    }
    mean, share = explained(before, CFG.latent_correlation, FRAMES)
    plain = dataclasses.replace(CFG, preconditioning="none", previous_latent=False)
    rest = {name: value for name, value in params.items() if name != "previous_embedding"}
    network = dit.WanDiT(plain, DT).apply({"params": rest}, *chunks)[0]
    level = chunks[1][..., None]
    want = dit.add_linear_guess(network, chunks[0], level, CFG.latent_std, mean, share)
    np.testing.assert_allclose(apply(silent, chunks, before), want, atol=1e-5)
    assert np.abs(told - want)[0, 0].max() > 1e-2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"latent_correlation": (0.5,)},
            "dit.latent_correlation is .* none or dit.in_channels = 2",
        ),
        ({"latent_correlation": (0.5, 1.0)}, "values of 0 or more and below 1"),
        ({"patch": (3, 2, 2)}, "with dit.previous_latent it must be of one latent frame"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CFG, **fields)
