"""Derivatives of chunks: through the bank from one to the next, and of the last evaluations alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bvjax.chunking import ChunkGrid
from bvjax.config import (
    BuildConfig,
    ChunkConfig,
    DiTConfig,
    GuidanceConfig,
    MemoryConfig,
    ModelConfig,
    RetrievalConfig,
    SamplerConfig,
    TextConfig,
)
from bvjax.denoiser.context import prepare_context
from bvjax.denoiser.denoise import denoise_chunk, window_velocity
from bvjax.denoiser.encode import write_chunk
from bvjax.denoiser.types import ChunkInput, init_state
from bvjax.diffusion import solvers
from bvjax.diffusion.noise import initial_noise
from bvjax.errors import UserError
from tests.support.random_params import random_dit

WIDTH, ROWS, KEY = 8, 3, jax.random.key(4)

# All tokens are kept, so that no small change of the parameters changes which are.
MODEL = ModelConfig(
    name="gradients",
    chunk=ChunkConfig(height=32, width=32, fps=2, frames=8),
    text=TextConfig(dim=WIDTH, max_length=ROWS),
    dit=DiTConfig(dim=16, num_heads=2, num_layers=1, ffn_dim=16, freq_dim=8, similarity_keys=True),
    memory=MemoryConfig(slots=2, capacity=8, tau=1.0, anchor=False),
    build=BuildConfig(n_recent=2, n_random=2),
    retrieval=RetrievalConfig(num_recent=0, num_retrieved=1),
    sampler=SamplerConfig(kind="euler", steps=2),
    guidance=GuidanceConfig(scale=1.5, memory=2.0),
)


def inputs_of(chunk_id):
    text = jax.random.normal(jax.random.key(10 + chunk_id), (ROWS, WIDTH))
    null = jax.random.normal(jax.random.key(9), (ROWS, WIDTH))
    return ChunkInput(jnp.int32(chunk_id), text, text.mean(0), null, KEY)


@pytest.fixture(scope="module")
def params():
    """Random everywhere: a head of zeros, as initialised, would have no gradient behind it."""
    return random_dit(MODEL)


@pytest.mark.slow
def test_two_chunks_and_the_bank_are_differentiated(params):
    """Against finite differences in float32, with and without what goes through the entry."""
    vector, unravel = ravel_pytree(params)

    def scalar(vector, through):
        params, weights = unravel(vector), jax.random.normal(jax.random.key(2), (2, 4, 4, 16))
        state = init_state(MODEL)
        first = denoise_chunk(params, MODEL, state, inputs_of(1))
        state, _ = write_chunk(params, MODEL, state, inputs_of(1), first)
        fixed = jax.lax.stop_gradient(state)
        state = jax.tree.map(lambda a, b: jnp.where(through, a, b), state, fixed)
        seen = prepare_context(MODEL, state, inputs_of(2)).selection
        second = denoise_chunk(params, MODEL, state, inputs_of(2))
        return jnp.sum(weights * second), (second, weights, seen)

    program = jax.jit(jax.value_and_grad(scalar, has_aux=True))
    (_, (_, weights, seen)), gradient = program(vector, True)
    assert seen.chunk_id.tolist() == [[1]] and not seen.recent.any()  # chunk 2 retrieves chunk 1
    _, short = program(vector, False)
    step, differ = 2e-2, []
    for part in ("blocks", "patch_embedding", "head"):
        mask = {
            n: jax.tree.map(jnp.ones_like if n == part else jnp.zeros_like, p)
            for n, p in params.items()
        }
        direction = jax.random.normal(jax.random.key(3), vector.shape) * ravel_pytree(mask)[0]
        direction = direction / jnp.linalg.norm(direction)
        ahead, behind = (
            np.asarray(program(vector + s * direction, True)[0][1][0], np.float64)
            for s in (step, -step)
        )
        by_hand = np.sum(weights * (ahead - behind)) / (2 * step)
        np.testing.assert_allclose(gradient @ direction, by_hand, rtol=5e-3, err_msg=part)
        differ.append(abs(float(short @ direction) / by_hand - 1.0))
    assert min(differ) > 0.05  # without what goes through the entry


@pytest.mark.slow
def test_the_last_evaluations_carry_gradient(params):
    """`graded` evaluations as by hand, where the others are constants; the latents are the same."""
    sampler = dataclasses.replace(MODEL.sampler, steps=3)
    model = dataclasses.replace(MODEL, sampler=sampler, guidance=GuidanceConfig(scale=1.0))
    state, inputs = init_state(model), inputs_of(1)
    weights = jax.random.normal(jax.random.key(2), (2, 4, 4, 16))
    levels, labels = solvers.sigmas(sampler), solvers.timesteps(sampler) / solvers.TRAIN_STEPS

    def by_hand(params, graded):
        seen = prepare_context(model, state, inputs, guided=True)
        velocity = window_velocity(params, model, inputs, seen)
        shape = (2, *ChunkGrid.of(model).latent_size, 16)
        x = initial_noise(model.noise, KEY, 0, shape)
        for i, label in enumerate(labels):
            x = x + (levels[i + 1] - levels[i]) * velocity(x, jnp.float32(label))
            if i < 3 - graded:
                x = jax.lax.stop_gradient(x)
        return jnp.sum(weights * x[0])

    def scalar(params, graded):
        latents = denoise_chunk(params, model, state, inputs, graded=graded)
        return jnp.sum(weights * latents)

    whole, gradients = None, {}
    for graded in (None, 1):
        value, gradients[graded] = jax.jit(jax.value_and_grad(lambda p: scalar(p, graded)))(params)  # noqa: B023
        whole = value if whole is None else whole
        np.testing.assert_allclose(value, whole, rtol=1e-6)
    want = jax.jit(jax.grad(lambda p: by_hand(p, 1)))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), gradients[1], want
    )
    differ = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), gradients[None], want)
    assert max(jax.tree.leaves(differ)) > 1e-2
    with pytest.raises(UserError, match="-1 evaluations cannot carry gradient"):
        scalar(params, -1)
