"""The VAE on a mesh of eight devices is the VAE on one; each device holds its part of the picture."""

from __future__ import annotations

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import VAEConfig
from bvjax.nets import vae
from bvjax.nets.vae_layers import spatial_cut
from bvjax.sharding import ONE_DEVICE, make_layout

CONFIG = VAEConfig(dim=8, num_res_blocks=1)
# Meshes, latents, and how the picture is cut: rows, the only side that eight divide, both.
CASES = [
    (dict(context=8), (8, 6), (8, 1)),
    (dict(data=2, context=4), (8, 6), (8, 1)),
    (dict(context=8), (6, 8), (1, 8)),
    (dict(data=2, tensor=4), (4, 6), (4, 2)),
]


@pytest.fixture(scope="module")
def params():
    return vae.init_params(CONFIG, jax.random.key(0))


def compiled(layout, params, *args, run):
    return jax.jit(functools.partial(run, layout=layout)).lower(params, *args).compile()


def decode(params, state, latents, layout):
    return vae.decode_stream(params, CONFIG, state, latents, first=False, layout=layout)


def encode(params, state, frames, layout):
    return vae.encode_stream(params, CONFIG, state, frames, first=False, layout=layout)


def noise(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("sizes, side, cut", CASES, ids=str)
def test_decode(params, sizes, side, cut):
    height, width = (8 * n for n in side)
    state = jax.tree.map(
        lambda x: jnp.asarray(noise(1, *x.shape)), vae.init_decode_state(CONFIG, 1, height, width)
    )
    args = params, state, noise(0, 1, 3, *side, 16)
    layout = make_layout(sizes)
    alone, shared = (compiled(where, *args, run=decode) for where in (ONE_DEVICE, layout))
    (state_a, frames_a), (state_b, frames_b) = alone(*args), shared(*args)
    np.testing.assert_allclose(frames_b, frames_a, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b, a, atol=1e-5 * np.abs(a).max()), state_a, state_b
    )
    part = frames_b.addressable_shards[0].data.shape
    assert part[2:4] == (height // cut[0], width // cut[1])
    a, b = (f.memory_analysis().temp_size_in_bytes for f in (alone, shared))
    assert b < 0.5 * a
    moved = collectives(shared.as_text())
    assert moved["collective-permute"]
    # Attention sees all keys and values of a frame; nothing else is ever whole.
    assert set(moved) <= {"collective-permute", "all-gather"}
    assert max(moved["all-gather"]) <= 3 * math.prod(side) * 32


def test_encode(params):
    state = vae.init_encode_state(CONFIG, 1, 64, 48)
    args = params, state, noise(0, 1, 8, 64, 48, 3).clip(-1, 1)
    layout = make_layout(dict(context=8))
    (_, a), (_, b) = (compiled(where, *args, run=encode)(*args) for where in (ONE_DEVICE, layout))
    np.testing.assert_allclose(b, a, atol=1e-5)


def collectives(text: str) -> dict[str, list[int]]:
    """Values in the result of every collective of a compiled program, by kind."""
    found = {}
    pattern = r"= \(?\w+\[([\d,]*)\]\S* (all-\w+|collective-permute|reduce-scatter)(?:-start)?\("
    for shape, kind in re.findall(pattern, text):
        found.setdefault(kind, []).append(math.prod(int(n) for n in shape.split(",") if n))
    return found


def test_cut_of_a_size_that_nothing_divides():
    place = spatial_cut(make_layout(dict(context=8)), 5, 7)
    assert place(jnp.zeros((1, 1, 5, 7, 2))).sharding.is_fully_replicated
