"""A finished chunk into the memory: its clean pass, the rows to keep, the write (Algorithm 2)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.context import prepare_context
from bvjax.denoiser.passes import chunk_positions, clean_pass, network
from bvjax.denoiser.types import (
    ChunkInput,
    ChunkReport,
    EncodedChunk,
    Latents,
    MemoryState,
    empty_report,
)
from bvjax.diffusion import flow
from bvjax.diffusion.noise import level_of
from bvjax.memory import bank as kv_bank
from bvjax.memory.bank import Entry, KVBank, PendingEntry
from bvjax.memory.importance import keep_of_layers, probe_indices
from bvjax.memory.storage import storage_dtype
from bvjax.nets.dit import ChunkKV, Context
from bvjax.random import normal, purpose_key
from bvjax.sharding import ONE_DEVICE, Layout


def write_chunk(
    params: Any,
    model: ModelConfig,
    state: MemoryState,
    inputs: ChunkInput,
    latents: Latents,
    layout: Layout = ONE_DEVICE,
) -> tuple[MemoryState, ChunkReport]:
    """Encodes finished latents and writes them to the bank.

    Where no chunk ever looks into the bank, nothing is encoded or written.
    """
    gathered = layout.mesh is not None
    encoded, report = encode_chunk(params, model, state, inputs, latents, layout, gathered)
    if encoded is None:
        return state, report

    def write(bank: KVBank, entry: PendingEntry | Entry) -> KVBank:
        bank = kv_bank.write(
            bank, entry, inputs.embedding[None], inputs.chunk_id, model.memory,
            model.retrieval.span, layout.kernels, latents[None],
        )  # fmt: skip
        return kv_bank.shard(bank, layout)

    null_bank = state.null_bank
    if null_bank is not None:
        null_bank = write(null_bank, encoded.null_entry)
    return MemoryState(bank=write(state.bank, encoded.entry), null_bank=null_bank), report


def encode_chunk(
    params: Any,
    model: ModelConfig,
    state: MemoryState,
    inputs: ChunkInput,
    latents: Latents,
    layout: Layout = ONE_DEVICE,
    gathered: bool = True,
) -> tuple[EncodedChunk | None, ChunkReport]:
    """Encodes finished latents (Algorithm 2).

    A pure function of (bank, clean latents, caption, seed); with build.context="none" of the bank
    only the report depends.  The clean pass is told sigma = build.label and sees the latents through
    noise of sigma = build.context_noise, both 0 by default; with levels.context both are the level of the
    chunk.  The null bank keeps the same tokens of the same chunks.

    Args:
        gathered: static; whether the kept rows are moved together here, or later by `bank.write`.

    Returns:
        The chunk, None where no chunk ever looks into the bank, and what the memory did for it.
    """
    memory = model.memory
    chunk_context = prepare_context(model, state, inputs, layout)
    selection = chunk_context.selection
    if not selection.index.shape[-1]:
        report = empty_report(selection.chunk_id[0], selection.valid[0], model.dit.num_layers)
        return None, report
    context, null_context, start = (
        chunk_context.context,
        chunk_context.null_context,
        chunk_context.start,
    )
    if model.build.context == "none":
        context, null_context, start = None, None, jnp.int32(0)
    grid = ChunkGrid.of(model)
    local = grid.positions(len(latents))
    key = purpose_key(inputs.key, "probes", inputs.chunk_id)
    probes = probe_indices(model.build, len(local), grid.tokens_per_latent, key)
    positions = chunk_positions(model, len(latents), start)
    noise_level: Any = model.build.context_noise
    label: Any = model.build.label
    if model.levels.context:
        noise_level = label = level_of(model.levels, grid.number_of(inputs.chunk_id))
    if model.levels.context or model.build.context_noise:
        fresh = normal(purpose_key(inputs.key, "context noise", inputs.chunk_id), latents.shape)
        latents = flow.interpolate(latents, fresh, noise_level)
    net = network(model, layout.for_tokens(len(local)))
    sigma = jnp.full((1, 1), label, jnp.float32)

    def clean(text: Float[Array, "t d"], context: Context | None) -> ChunkKV:
        return clean_pass(
            net,
            params,
            model,
            latents[None, None],
            sigma,
            text[None, None],
            positions[None, None],
            context,
            probes,
        )

    kv = clean(inputs.text, context)
    keep, cover = keep_of_layers(kv.importance, probes[1], memory, memory.capacity)
    keep_all = jnp.logical_and(memory.anchor, inputs.chunk_id == 0)
    keep = keep | keep_all
    dense, dtype = model.retrieval.dense_recent, storage_dtype(model)

    def entry_of(kv: ChunkKV) -> tuple[PendingEntry | Entry, Bool[Array, ""]]:
        pending = kv_bank.keep_rows(kv, keep, local, memory.capacity, dense, dtype)
        entry = kv_bank.gather(pending, layout) if gathered else pending
        return entry, kv_bank.is_finite(pending.rows)

    entry, finite = entry_of(kv)
    finite &= jnp.isfinite(kv.importance).all()
    null_entry = None
    if state.null_bank is not None:
        null_entry, null_finite = entry_of(clean(inputs.null_text, null_context))
        finite &= null_finite
    index = selection.index[0]
    report = ChunkReport(
        chunk_id=selection.chunk_id[0],
        valid=selection.valid[0],
        score=jnp.where(selection.valid[0], selection.scores[0][index], 0.0),
        kept=jnp.where(keep_all, len(local), cover.kept[:, 0, 0]),
        requested=jnp.where(keep_all, len(local), cover.requested[:, 0, 0]),
        coverage=jnp.where(keep_all, 1.0, cover.coverage[:, 0, 0]),
        finite=finite,
    )
    return EncodedChunk(entry=entry, null_entry=null_entry), report
