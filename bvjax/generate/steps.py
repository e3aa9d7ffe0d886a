"""The steps of a video: what each chunk is given, and the programs that make it.

`rollout` scans `chunk_step`; `stream` calls its two halves, `denoise_program` and `write_program`,
each jitted once, so that a finished chunk can be put back into the bank (resume, rebuild) by the very
program that put it there first.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.denoise import denoise_anchor, denoise_chunk
from bvjax.denoiser.encode import encode_chunk, write_chunk
from bvjax.denoiser.types import ChunkInput, ChunkReport, Latents, MemoryState
from bvjax.generate.conditions import Conditions
from bvjax.sharding import ONE_DEVICE, Layout

_STATIC = ("model", "layout")
anchor_program = jax.jit(denoise_anchor, static_argnames=_STATIC)
denoise_program = jax.jit(denoise_chunk, static_argnames=_STATIC)
encode_program = jax.jit(encode_chunk, static_argnames=_STATIC)
write_program = jax.jit(write_chunk, static_argnames=_STATIC, donate_argnames="state")


def chunk_step(
    params: Any,
    model: ModelConfig,
    state: MemoryState,
    inputs: ChunkInput,
    prefix: Latents | None = None,
    layout: Layout = ONE_DEVICE,
) -> tuple[MemoryState, Latents, ChunkReport]:
    """Generates a chunk and writes it to the bank."""
    latents = denoise_chunk(params, model, state, inputs, prefix, layout)
    own = latents[-ChunkGrid.of(model).latents_per_chunk :]
    state, report = write_chunk(params, model, state, inputs, own, layout)
    return state, latents, report


def chunk_input(
    conditions: Conditions,
    key: Key[Array, ""],
    oracle: Float[np.ndarray, "n ids"] | None,
    row: int,
    chunk_id: int,
    shot: int = 0,
) -> ChunkInput:
    """The inputs of chunk `chunk_id`: a row of the conditions (and of the oracle's scores).

    `shot` is the id of the first chunk of its shot.
    """
    first_of_shot: Any = np.int32(shot)
    # Rows are sliced on the host: on the device each index would be a program of its own.
    return ChunkInput(
        chunk_id=np.int32(chunk_id),
        text=np.asarray(conditions.text)[row],
        embedding=np.asarray(conditions.embedding)[row],
        null_text=np.asarray(conditions.null_text)[0],
        key=key,
        oracle=None if oracle is None else np.asarray(oracle)[row],
        shot=first_of_shot,
    )


def entry_inputs(
    model: ModelConfig,
    conditions: Conditions,
    key: Key[Array, ""],
    oracle: Float[np.ndarray, "n ids"] | None,
    chunk_id: int,
    shot: int = 0,
) -> tuple[ChunkInput, ...]:
    """The inputs of all entries that go into the bank when a chunk is done, its own the last.

    With overlap, chunk 1 brings the anchor.
    """
    grid = ChunkGrid.of(model)
    inputs = chunk_input(conditions, key, oracle, grid.row_of(chunk_id), chunk_id, shot)
    entries = grid.entry_ids(chunk_id, model.memory.anchor)
    return tuple(inputs.replace(chunk_id=np.int32(i)) for i in entries)
