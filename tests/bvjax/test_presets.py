"""Every preset can generate, and SkyReels-V2 runs at full size as its own pipelines do."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from bvjax import weights
from bvjax.chunking import ChunkGrid
from bvjax.denoiser.types import ChunkInput, init_state
from bvjax.generate import steps
from bvjax.generate.checks import check_model
from bvjax.presets import PRESETS, SKYREELS


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_generate(name):
    check_model(PRESETS[name])


def test_the_papers_model_has_its_numbers():
    """Section 5.1, and the DiT that it starts from."""
    model = PRESETS["blockvid-1.3b"]
    assert model.dit == SKYREELS.dit and model.dit.fps_embedding
    grid = ChunkGrid.of(model, 15)
    assert (grid.latents_per_chunk, grid.num_frames) == (24, 1 + 15 * 96)
    assert 15 * grid.seconds_per_chunk == 60.0
    assert (model.memory.tau, model.retrieval.num_retrieved, model.noise.shuffle) == (0.98, 2, 4)
    assert model.memory.anchor and model.retrieval.kind == "semantic"
    large = PRESETS["blockvid-14b"]
    assert large.dit == PRESETS["wan-14b"].dit
    assert dataclasses.replace(large, name=model.name, dit=model.dit) == model


@pytest.mark.parametrize("changes", [{}, {"ar_step": 5, "causal_block": 5}])
def test_skyreels_at_full_size_by_shapes(changes):
    """A window of 97 frames at 544 x 960: 5 latents of history and 20 new ones, and no memory."""
    sampler = dataclasses.replace(SKYREELS.sampler, **changes)
    model = dataclasses.replace(SKYREELS, sampler=sampler)
    check_model(model)

    def step(params, history):
        given = ChunkInput(
            chunk_id=jnp.int32(2),
            text=jnp.zeros((512, 4096)),
            embedding=jnp.zeros(4096),
            null_text=jnp.zeros((512, 4096)),
            key=jax.random.key(0),
        )
        state = init_state(model)
        return steps.chunk_step(params, model, state, given, history)

    history = jax.ShapeDtypeStruct((5, 68, 120, 16), jnp.float32)
    state, latents, report = jax.eval_shape(step, weights.shapes(model, "dit"), history)
    assert latents.shape == (25, 68, 120, 16)
    assert report.chunk_id.shape == (0,) and state.bank.keys.size == 30 * 1536


def test_whole_chunks_fit_a_slot():
    """tau decides what is kept, never the capacity; the bank of a minute is 110 GB in the host's memory."""
    whole, clipped = PRESETS["blockvid-1.3b-whole"], PRESETS["blockvid-1.3b"]
    assert whole.memory.capacity == ChunkGrid.of(whole).tokens_per_chunk == 37440
    assert clipped.memory.capacity < 37440 and whole.memory.offload == "host"
    dit, memory = whole.dit, whole.memory
    rows = 2 * dit.num_layers * memory.slots * memory.capacity
    assert rows * dit.dim * 2 == pytest.approx(110e9, rel=0.01)
    assert dataclasses.replace(whole, name=clipped.name, memory=clipped.memory) == clipped
