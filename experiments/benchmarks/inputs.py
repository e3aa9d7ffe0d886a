"""Inputs of one chunk step: random text and noise, and a memory that is full."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.types import ChunkInput, MemoryState, init_state
from bvjax.memory.bank import KVBank

_STEPS = 24.0  # of a unit normal, in a memory of 8 bits


def chunk_input(model: ModelConfig, chunk_id: int) -> ChunkInput:
    """A chunk with random text states; the same in every process."""
    rng = np.random.default_rng(chunk_id)
    rows = (model.text.max_length, model.text.dim)
    text, null = (rng.standard_normal(rows, np.float32) for _ in range(2))
    return ChunkInput(
        chunk_id=np.int32(chunk_id),
        text=text,
        embedding=text.mean(0),
        null_text=null,
        key=jax.random.key(0),
    )


def steady_chunk(model: ModelConfig) -> int:
    """The first chunk by which every slot but one has been written."""
    return model.memory.slots - model.memory.anchor + ChunkGrid.of(model).first_id


def full_state(model: ModelConfig, chunk_id: int) -> MemoryState:
    """A memory of the chunks before `chunk_id`, whole slots of random rows, one slot free.

    Nothing is then given up for the chunk that is written, so that a step can be repeated.
    """
    banks = 1 + model.guidance.two_banks
    full_banks = [_full_bank(model, chunk_id) for _ in range(banks)]
    return MemoryState(bank=full_banks[0], null_bank=full_banks[1] if banks == 2 else None)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _full_bank(model: ModelConfig, chunk_id: int) -> KVBank:
    memory, grid = model.memory, ChunkGrid.of(model)
    bank = init_state(model).bank
    latest = range(max(grid.first_id, chunk_id - (memory.slots - memory.anchor - 1)), chunk_id)
    ids = [0] * memory.anchor + [i for i in latest if not (memory.anchor and i == 0)]
    anchor_rows = grid.first_entry_latents // model.dit.patch[0] * grid.tokens_per_latent
    kept = [min(memory.capacity, grid.tokens_per_chunk)] * len(ids)
    if memory.anchor:
        kept[0] = anchor_rows
    free = [0] * (memory.slots - len(ids))
    lengths = jnp.asarray([*kept, *free], jnp.int32)
    local = jnp.asarray(grid.positions(grid.latents_per_chunk))
    local = local[jnp.arange(memory.capacity) % len(local)]
    keys = jax.random.split(jax.random.key(1), 3)

    def rows(key, like):
        """Every slot and layer has the same rows."""
        values = jax.random.normal(key, like.shape[3:]) * (1 if bank.key_scales is None else _STEPS)
        return jnp.broadcast_to(values, like.shape).astype(like.dtype)

    return bank.replace(
        keys=rows(keys[0], bank.keys),
        values=rows(keys[1], bank.values),
        positions=jnp.broadcast_to(local, bank.positions.shape),
        lengths=jnp.broadcast_to(lengths, bank.lengths.shape),
        stored=jnp.broadcast_to(lengths, bank.stored.shape),
        embedding=jax.random.normal(keys[2], bank.embedding.shape),
        chunk_id=jnp.asarray([ids + [-1] * len(free)], jnp.int32),
        valid=jnp.arange(memory.slots)[None] < len(ids),
        **{
            name: jnp.full_like(getattr(bank, name), 1 / _STEPS)
            for name in ("key_scales", "value_scales")
            if getattr(bank, name) is not None
        },
    )
