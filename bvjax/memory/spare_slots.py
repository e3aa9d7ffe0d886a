"""A bank with spare slots: what chunks of a window saw stays where it is until the window is over.

Self Forcing makes a window of chunks, judges it, and then evaluates each of its chunks once more, with the entries
that the chunk saw.  By then the chunks after it have been written, and may have evicted some.  Here a chunk of the
window that evicts an entry is written to a slot that nothing is in, and what it evicts remains until the next window
begins; so the bank is never copied, and is a constant where chunks are evaluated again.

The bank has as many more slots than `memory.slots` as a window can evict entries.  `place` says in which slot of the bank
each slot of generation's table is; which entry is evicted is decided in that table, as in generation.
"""

from __future__ import annotations

import dataclasses

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bvjax.config import ModelConfig
from bvjax.memory import bank as kv_bank
from bvjax.memory.bank import Entry, KVBank, PendingEntry
from bvjax.memory.retrieval import Selection
from bvjax.memory.slot_table import SlotTable, insert, set_row
from bvjax.memory.storage import storage_dtype
from bvjax.sharding import ONE_DEVICE, Layout


@flax.struct.dataclass
class SpareBank:
    """A bank of `slot` = memory.slots + spare ones, of one video (B = 1)."""

    bank: KVBank
    place: Int[Array, "1 s"]  # of each slot of generation's table: its slot in `bank`
    held: Bool[Array, "slot"]  # slots of `bank` that the window may have seen


def init_spare_bank(model: ModelConfig, spare: int, layout: Layout = ONE_DEVICE) -> SpareBank:
    """An empty bank for windows that evict at most `spare` entries."""
    memory = dataclasses.replace(model.memory, slots=model.memory.slots + spare)
    larger = dataclasses.replace(model, memory=memory)
    return SpareBank(
        bank=kv_bank.shard(kv_bank.init_bank(larger, 1, storage_dtype(model)), layout),
        place=jnp.arange(model.memory.slots, dtype=jnp.int32)[None],
        held=jnp.zeros(memory.slots, bool),
    )


def shardings(bank: SpareBank, layout: Layout, *leading: str) -> SpareBank:
    """The sharding of each field of banks that are stacked along axes which are sharded over `leading`."""
    outer = layout.sharding(*leading)
    names = kv_bank.axes(bank.bank).items()
    rows = {name: layout.sharding(*leading, *own[len(leading) :]) for name, own in names}
    return SpareBank(bank=bank.bank.replace(**rows), place=outer, held=outer)


def table_of(bank: SpareBank) -> SlotTable:
    """The table of generation, of which entries are selected and evicted."""
    rows, place = kv_bank.slot_table_of(bank.bank), bank.place[0]
    return SlotTable(
        embedding=rows.embedding[:, place],
        chunk_id=rows.chunk_id[:, place],
        valid=rows.valid[:, place],
        latents=None if rows.latents is None else rows.latents[:, place],
    )


def placed(bank: SpareBank, selection: Selection) -> Selection:
    """A selection from `table_of(bank)` by its slots in the bank."""
    scores = jnp.full(bank.bank.chunk_id.shape, -jnp.inf, selection.scores.dtype)
    return dataclasses.replace(
        selection,
        index=jnp.take_along_axis(bank.place, selection.index, axis=1),
        scores=scores.at[0, bank.place[0]].set(selection.scores[0]),
    )


def begin_window(bank: SpareBank) -> SpareBank:
    """The bank when nothing that was seen so far need remain."""
    return dataclasses.replace(bank, held=jnp.zeros_like(bank.held))


def hold(bank: SpareBank) -> SpareBank:
    """The bank with all entries that it has now kept until the next window begins."""
    return dataclasses.replace(bank, held=bank.held | (_in_place(bank) & bank.bank.valid[0]))


def write(
    bank: SpareBank,
    entry: PendingEntry | Entry,
    embedding: Float[Array, "1 Dt"],
    chunk_id: Int[Array, ""],
    model: ModelConfig,
    layout: Layout = ONE_DEVICE,
    latents: Float[Array, "1 k h w z"] | None = None,
) -> SpareBank:
    """The bank with chunk `chunk_id` in it, in the slot of generation's table that `bank.write` chooses.

    Its rows take the place of what that slot had, or, if that is held, go to a slot of the bank that nothing is in.
    """
    memory, recent = model.memory, model.retrieval.span
    table = table_of(bank)
    _, slot = insert(table, embedding, chunk_id, memory, recent, latents)
    own = bank.place[0, jnp.minimum(slot, memory.slots - 1)]
    free = jnp.argmin(_in_place(bank) | bank.held).astype(jnp.int32)
    chosen = jnp.where(bank.held[own], free, own)
    target = jnp.where(slot < memory.slots, chosen, len(bank.held))
    rows = set_row(kv_bank.slot_table_of(bank.bank), target, embedding, chunk_id, latents)
    return dataclasses.replace(
        bank,
        bank=kv_bank.shard(kv_bank.put(bank.bank, entry, rows, target, layout.kernels), layout),
        place=bank.place.at[0, slot[0]].set(chosen[0], mode="drop"),
    )


def _in_place(bank: SpareBank) -> Bool[Array, "slot"]:
    return jnp.zeros_like(bank.held).at[bank.place[0]].set(True)
