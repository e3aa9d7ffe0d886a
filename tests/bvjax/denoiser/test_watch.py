"""Watching a chunk: every step is told, the last one is what comes out, and the latents are the same to the bit.

Whole videos are compared in tests/bvjax/runs/test_preview_file.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import SamplerConfig
from bvjax.denoiser.watch import Watch, colours, looker
from bvjax.diffusion.solvers import solve
from bvjax.nets import tiny_decoder
from tests.support import tiny_decoders


@pytest.mark.parametrize("kind", ["unipc", "euler", "few_step"])
def test_each_step_is_told(kind):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(1, 2, 3, 4, 5)).astype(np.float32)
    sampler = SamplerConfig(kind=kind, steps=4, shift=3.0)
    told, matrix = [], rng.normal(size=(6, 3)).astype(np.float32) / 4
    watch = Watch(matrix, matrix, lambda *seen: told.append([np.asarray(x) for x in seen]))

    @functools.partial(jax.jit, static_argnames="watched")
    def program(noise, watched):
        look = looker(watch if watched else None, jnp.int32(7))
        velocity = lambda x, sigma: jnp.sin(x) * (1 + sigma)
        return solve(sampler, velocity, noise, jax.random.key(0), look=look)

    plain, watched = program(noise, False), program(noise, True)
    jax.effects_barrier()
    np.testing.assert_array_equal(plain, watched)
    told.sort(key=lambda seen: int(seen[1]))
    assert [(int(chunk), int(step)) for chunk, step, _ in told] == [(7, step) for step in range(4)]
    last, wanted = told[-1][2].astype(int), np.asarray(colours(plain[0], matrix)).astype(int)
    assert last.shape == (2, 3, 4, 3) and np.abs(last - wanted).max() <= 1
    assert np.abs(told[0][2].astype(int) - wanted).max() > 5


def test_a_decoder_shows_the_middle():
    """In place of the map: of three latents the second, with what comes before it."""
    rng, told = np.random.default_rng(0), []
    kernels = {
        name: jnp.asarray(x.transpose(2, 3, 1, 0) if x.ndim == 4 else x)
        for name, x in tiny_decoders.tensors(z=5).items()
    }
    watch = Watch(None, None, lambda *seen: told.append([np.asarray(x) for x in seen]), kernels)
    x0 = jnp.asarray(rng.normal(size=(1, 3, 2, 2, 5)), jnp.float32)
    jax.jit(lambda watch, x0: looker(watch, jnp.int32(7))(jnp.int32(2), x0))(watch, x0)
    jax.effects_barrier()
    ((chunk, step, shown),) = told
    assert (int(chunk), int(step)) == (7, 2) and shown.shape == (1, 16, 16, 3)
    want = 255 * np.asarray(tiny_decoder.still(kernels, x0[0, :2]))
    assert np.abs(shown[0] - want).max() <= 1 and shown.std() > 5


def test_nobody_watches():
    assert looker(None, jnp.int32(0)) is None
