"""The view of the memory that one chunk has: its entries, their times, and their rows as a context."""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser import guidance
from bvjax.denoiser.passes import entry_times
from bvjax.denoiser.types import ChunkInput, MemoryState
from bvjax.memory import retrieval
from bvjax.memory.bank import KVBank, slot_table_of
from bvjax.memory.retrieval import GatheredEntries, SelectedBank, Selection
from bvjax.memory.slot_table import SlotTable, last_before, previous_latent
from bvjax.nets.dit import Context, PreviousLatent
from bvjax.nets.routing import Route
from bvjax.random import purpose_key
from bvjax.sharding import ONE_DEVICE, Layout


@struct.dataclass
class ChunkContext:
    """The memory as one chunk sees it.

    There is no context where nothing can be seen: no anchor, no retrieval, no recent entries.
    """

    selection: Selection
    context: Context | None  # of both branches (B = 2) where they are `guidance.is_paired`
    null_context: Context | None  # of the null branch, where it differs and has one of its own
    start: Int[Array, ""]  # RoPE time of the chunk's first latent frame
    previous: PreviousLatent | None = None  # b = c = 1, for models that are told it
    begin: PreviousLatent | None = (
        None  # with `levels.start`: what the chunk begins with under its noise
    )


def select_entries(model: ModelConfig, table: KVBank | SlotTable, inputs: ChunkInput) -> Selection:
    """The entries that a chunk sees (Eq. 8, 9)."""
    oracle = None
    if inputs.oracle is not None:
        in_range = (table.chunk_id >= 0) & (table.chunk_id < len(inputs.oracle))
        row = inputs.oracle[jnp.clip(table.chunk_id, 0, len(inputs.oracle) - 1)]
        oracle = jnp.where(in_range, row, -jnp.inf)
    key = purpose_key(inputs.key, "retrieval", inputs.chunk_id)
    return retrieval.retrieve(
        table,
        inputs.embedding[None],
        inputs.chunk_id,
        model,
        key=key,
        oracle=oracle,
        shot=inputs.shot,
    )


def prepare_context(
    model: ModelConfig,
    state: MemoryState,
    inputs: ChunkInput,
    layout: Layout = ONE_DEVICE,
    guided: bool = False,
) -> ChunkContext:
    """Selects entries and makes them a context.

    Args:
        layout: static; the devices that share the work.
        guided: static; for denoising: the null branch then forgets what `guidance.null_sees` says,
            and where the branches are paired the context is that of both.
    """
    bank, previous, begin = state.bank, None, None
    if isinstance(bank, SelectedBank):
        bank, selection = bank.bank, bank.selection
    elif isinstance(bank, GatheredEntries):
        selection = bank.selection
    else:
        selection = select_entries(model, bank, inputs)
    if isinstance(bank, KVBank):
        last = (model, slot_table_of(bank), inputs.chunk_id, inputs.shot)
        previous = previous_latent(*last)
        begin = last_before(*last) if model.levels.start == "level" else None
    entry_base, start = entry_times(
        model, selection.chunk_id, selection.valid, inputs.chunk_id, model.memory.anchor
    )
    start = start[0]
    if not selection.index.shape[-1]:
        return ChunkContext(selection, None, None, start, previous, begin)
    null = None if state.null_bank is None else (state.null_bank, selection)
    null_sees = guidance.null_sees(model, selection.valid) if guided else None
    if null_sees is not None:
        null = state.null_bank or bank, selection.replace(valid=null_sees)
    assemble = functools.partial(
        retrieval.assemble,
        entry_base=entry_base,
        theta=model.dit.rope_theta,
        layout=layout,
        dtype=jnp.dtype(model.dit.dtype),
    )
    if guided and guidance.is_paired(model, layout):
        paired = assemble(bank, selection, null=null or (bank, selection))
        return ChunkContext(selection, paired, None, start, previous, begin)
    null_context = None if null is None else _routed(model, *null, assemble(*null))
    context = _routed(model, bank, selection, assemble(bank, selection))
    return ChunkContext(selection, context, null_context, start, previous, begin)


def _routed(
    model: ModelConfig, bank: KVBank | GatheredEntries, selection: Selection, context: Context
) -> Context:
    """The context with what its queries choose by, where `retrieval.route` says that they do."""
    if not model.retrieval.route:
        return context
    owner = retrieval.row_owners(bank, selection, context.keys.shape[3])
    block = ChunkGrid.of(model).tokens_per_latent
    route = Route(model.retrieval.route, selection.index.shape[-1], block)
    return dataclasses.replace(context, owner=owner[:, :, None], route=route)
