"""What a chunk starts from in generation, by value: one base noise, its boundary frames shuffled (Eq. 12, 13)."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import NoiseConfig
from bvjax.denoiser import denoise
from bvjax.denoiser.denoise import denoise_chunk
from bvjax.denoiser.types import ChunkInput, init_state
from bvjax.diffusion import diffusion_forcing
from bvjax.presets import MINI
from bvjax.random import purpose_key

KEY = jax.random.key(11)
FRAMES = 4  # latents of a chunk
NOISE = NoiseConfig(base="shared", shuffle=2)


def base_noise(shape: tuple[int, ...]) -> np.ndarray:
    """The one noise that all chunks of a video share: row 0 of the draw that the seed gives."""
    key = jax.random.fold_in(purpose_key(KEY, "base noise"), 0)
    return np.asarray(jax.random.normal(key, (int(np.prod(shape)),))).reshape(shape)


def start_of(model, number: int, monkeypatch, prefix=None, **sampler) -> np.ndarray:
    """The latents that the solver is handed for a chunk."""
    model = dataclasses.replace(model, sampler=dataclasses.replace(model.sampler, **sampler))
    handed = []

    def solve(config, velocity, noise, *rest):
        handed.append(np.asarray(noise[0]))
        return noise

    monkeypatch.setattr(denoise, "solve", solve)
    monkeypatch.setattr(diffusion_forcing, "solve", solve)
    text = jnp.zeros((model.text.max_length, model.text.dim))
    inputs = ChunkInput(jnp.int32(number), text, jnp.zeros(model.text.dim), text, KEY)
    denoise_chunk(None, model, init_state(model), inputs, prefix)
    (noise,) = handed
    return noise


def frame_order(noise: np.ndarray, base: np.ndarray) -> list[int]:
    """Which frame of `base` each frame of `noise` is; -1 for one that is none of them."""
    same = [[np.array_equal(frame, other) for other in base] for frame in noise]
    return [row.index(True) if any(row) else -1 for row in same]


def model_of(tiny, first: str):
    """Without a memory, which has no part in the noise and takes its time."""
    nothing = {"memory": {"anchor": False}, "retrieval": {"num_recent": 0, "num_retrieved": 0}}
    model = tiny.variant(chunk={"frames": 16, "first": first}, **nothing)
    return dataclasses.replace(model, noise=NOISE)


@pytest.mark.parametrize("first", ["separate", "joined"])
def test_chunks_start_from_one_noise_with_shuffled_ends(tiny, monkeypatch, first):
    model, numbers = model_of(tiny, first), range(1, 11)
    offset = int(first == "joined")  # chunks are counted from 0 there, and have the same noise
    base = base_noise((FRAMES, 4, 4, 16))
    orders = [frame_order(start_of(model, n - offset, monkeypatch), base) for n in numbers]
    assert orders[0][:2] == [0, 1]  # nothing comes before chunk 1
    prefixes, suffixes = {tuple(o[:2]) for o in orders[1:]}, {tuple(o[2:]) for o in orders}
    assert prefixes == set(itertools.permutations((0, 1)))
    assert suffixes == set(itertools.permutations((2, 3)))


def test_the_same_behind_an_image_and_with_diffusion_forcing(tiny, monkeypatch):
    base, prefix = base_noise((FRAMES, 4, 4, 16)), jnp.zeros((1, 4, 4, 16))
    model = model_of(tiny, "joined")
    whole = frame_order(start_of(model, 5, monkeypatch), base)
    assert sorted(whole) == list(range(FRAMES))
    assert frame_order(start_of(model, 5, monkeypatch, prefix), base) == whole[1:]
    late = start_of(model, 5, monkeypatch, prefix, history_noise=20.0)
    assert frame_order(late, base) == whole


def test_what_a_model_has_unless_it_says_otherwise():
    for noise in (NoiseConfig(), MINI.noise):
        assert noise.base == "shared" and noise.shuffle > 1
