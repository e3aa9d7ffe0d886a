"""The DiT against diffusers' WanTransformer3DModel."""

from __future__ import annotations

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import Timesteps

from bvjax.nets.dit import WanDiT, timestep_embedding
from tests.golden import recipe
from tests.torch import builders
from tests.torch.builders import difference, size, to_numpy, to_torch

REFERENCE, TOLERANCE = "diffusers `WanTransformer3DModel`", 5e-5
TEXT_ROWS = 7
# (configuration, [frames, height, width] in latents, batch); tokens of a frame are 3x5, 5x1, ...
CASES = {
    "wide": (dict(heads=3, head_dim=16, layers=2), (3, 6, 10), 1),
    "one head": (dict(heads=1, head_dim=20, layers=1, freq_dim=10), (1, 10, 2), 2),
    "deep": (dict(heads=2, head_dim=12, layers=5, ffn_dim=16, text_dim=5), (5, 2, 6), 2),
    "heads of 128": (dict(heads=2, head_dim=128, layers=1, channels=16), (2, 6, 6), 1),
    "patch 1x1x2": (dict(heads=2, head_dim=32, patch=(1, 1, 2), channels=3), (2, 5, 6), 1),
    "frame": (dict(heads=4, head_dim=6, freq_dim=256), (1, 2, 2), 3),
}


def random_case(seed: int):
    rng = np.random.default_rng(seed)
    config = dict(
        heads=int(rng.integers(1, 5)),
        head_dim=2 * int(rng.integers(3, 17)),
        layers=int(rng.integers(1, 4)),
        ffn_dim=int(rng.integers(8, 80)),
        freq_dim=2 * int(rng.integers(4, 65)),
        channels=int(rng.integers(1, 17)),
        text_dim=int(rng.integers(1, 24)),
    )
    frames, height, width = (int(n) for n in rng.integers(1, 6, 3))
    return config, (frames, 2 * height, 2 * width), int(rng.integers(1, 3))


CASES |= {f"random {seed}": random_case(seed) for seed in range(5)}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(theirs, our model, our velocity function, latents [b, l, h, w, z], text)."""
    config, shape, batch = CASES[request.param]
    theirs = builders.transformer(**config, seed=request.param)
    model, params = builders.ours(theirs, tmp_path_factory.mktemp("dit"))
    channels = model.dit.in_channels
    latents = recipe.uniform("latents", (batch, *shape, channels))
    text = recipe.uniform("text", (batch, TEXT_ROWS, model.text.dim))
    network = WanDiT(model.dit, model.text.dim)
    apply = jax.jit(functools.partial(network.apply, {"params": params}))
    tokens = [n // p for n, p in zip(shape, model.dit.patch, strict=True)]
    grid = np.stack(np.meshgrid(*map(np.arange, tokens), indexing="ij"), -1).reshape(1, 1, -1, 3)

    def velocity(sigma):
        out, _ = apply(latents[:, None], sigma[:, None], text[:, None], grid.repeat(batch, 0))
        return np.asarray(out)[:, 0]

    return theirs, tokens, velocity, latents, text


def reference(theirs, latents, timesteps, text):
    out = theirs(to_torch(latents), timesteps, torch.from_numpy(text), return_dict=False)[0]
    return to_numpy(out)


@pytest.mark.parametrize("level", [0.0, 0.020, 0.9998, 1.0])
def test_one_sigma(case, level, record_parity):
    theirs, _, velocity, latents, text = case
    sigma = np.full(len(latents), level, np.float32) - 0.01 * np.arange(len(latents)) * (
        level > 0.5
    )
    want = reference(theirs, latents, torch.from_numpy(np.float32(1000) * sigma), text)
    assert size(want) > 1
    error = difference(velocity(sigma.astype(np.float32)), want)
    record_parity("DiT, one sigma", REFERENCE, error, TOLERANCE, size(want))


def test_a_sigma_for_each_latent_frame(case, record_parity):
    """diffusers takes a timestep per token; the tokens of a latent frame share theirs here."""
    theirs, tokens, velocity, latents, text = case
    rng = np.random.default_rng(3)
    timesteps = rng.integers(0, 1000, (len(latents), tokens[0])).astype(np.float32)
    timesteps[:, 0] = 0  # clean history
    per_token = torch.from_numpy(timesteps).repeat_interleave(tokens[1] * tokens[2], dim=1)
    want = reference(theirs, latents, per_token, text)
    error = difference(velocity(timesteps / np.float32(1000)), want)
    record_parity("DiT, a sigma for each latent frame", REFERENCE, error, TOLERANCE, size(want))
    if tokens[0] > 1:  # the levels are felt
        alone = velocity(timesteps[:, :1].repeat(tokens[0], 1) / np.float32(1000))
        assert difference(alone, want) > 1e-2


def test_one_sigma_and_one_sinusoid(case, record_parity):
    """What is left when both sides turn the timestep into the same features."""
    theirs, _, velocity, latents, text = case
    timesteps = np.float32(1000 * 0.9 ** np.arange(len(latents)))

    def sinusoid(self, t):
        return torch.from_numpy(
            np.array(timestep_embedding(jnp.asarray(t.numpy()), self.num_channels))
        )

    with mock.patch.object(Timesteps, "forward", sinusoid):
        want = reference(theirs, latents, torch.from_numpy(timesteps), text)
    error = difference(velocity(timesteps / np.float32(1000)), want)
    name = "DiT, one sigma, the same sinusoid on both sides"
    record_parity(name, REFERENCE, error, 1e-5, size(want))


def test_text_and_padding_are_felt(case):
    """Text states reach the output, and so does how many rows of zeros follow them."""
    theirs, _, velocity, latents, text = case
    sigma = np.full(len(latents), 0.5, np.float32)
    ours = velocity(sigma)
    level = torch.full((len(latents),), 500.0)
    assert difference(ours, reference(theirs, latents, level, -text)) > 1e-3
    padded = np.pad(text, ((0, 0), (0, 4), (0, 0)))
    assert difference(ours, reference(theirs, latents, level, padded)) > 1e-3
