"""KVBank: sparse keys and values of past chunks in a fixed number of fixed-capacity slots.

Keys are stored after qk-norm and before RoPE, with their positions, so that the time at which a
later chunk sees an entry is decided when its context is assembled.  Chunk ids, lengths and counts
are arrays: one compilation serves a story of any length.

With `memory.anchor` the entry with id 0 (one latent; with chunk.first="joined" the whole
first chunk) owns slot 0 for good and is seen by every chunk.  Without it id 0 is an entry like
any other, and whoever has an anchor does not write it.

`retrieval.dense_recent` needs no second copy: a slot then holds all rows of its chunk, the kept
ones first.  `lengths` counts the kept rows and `stored` all of them, so an entry is whole or
sparse by the length that is read, and it becomes sparse when it leaves the recent window.

`memory.dtype` says in which form rows are stored (`memory.storage`); `memory.slot_table` chooses slots.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from bvjax.chunking import ChunkGrid
from bvjax.config import MemoryConfig, ModelConfig
from bvjax.errors import UserError
from bvjax.memory import importance, rules, storage
from bvjax.memory.slot_table import EVICT, SlotTable, init_slot_table, insert
from bvjax.nets.dit import ChunkKV
from bvjax.sharding import ONE_DEVICE, TOKENS, Layout
from kernels_pallas.kv_gather import kept_first, take_rows, write_rows

CONTEXTS = ("none", "with")
ROPE_MODES = ("absolute", "local", "window", "packed")


# How rows are cut behind the axis of rows; the other fields are whole on every device.
_HEADS = {
    "keys": ("tensor",),
    "values": ("tensor",),
    "positions": (),
    "key_scales": ("tensor",),
    "value_scales": ("tensor",),
    "heads": ("tensor",),
}


@flax.struct.dataclass
class KVBank:
    """All entries.  Rows of a slot beyond `stored` are zeros; an empty slot has chunk id -1."""

    keys: Float[Array, "Y B slot cap A K"]
    values: Float[Array, "Y B slot cap A K"]
    positions: Int[Array, "Y B slot cap 3"]  # (t, h, w), t counted from the chunk's first latent
    lengths: Int[Array, "Y B slot"]  # kept rows
    stored: Int[Array, "Y B slot"]  # all rows: lengths, or the whole chunk with dense_recent
    embedding: Float[Array, "B slot Dt"]  # mean text state of the chunk's caption
    chunk_id: Int[Array, "B slot"]
    valid: Bool[Array, "B slot"]
    key_scales: Float[Array, "Y B slot cap A"] | None = None  # of rows in 8 bits
    value_scales: Float[Array, "Y B slot cap A"] | None = None
    heads: Float[Array, "Y B slot cap A"] | None = None  # 1 where a head keeps the row
    latents: Float[Array, "B slot l h w z"] | None = None  # for a retrieval rule that needs them


@flax.struct.dataclass
class Entry:
    """One chunk, ready to be written: a slot's rows as they are stored."""

    keys: Float[Array, "Y B cap A K"]
    values: Float[Array, "Y B cap A K"]
    positions: Int[Array, "Y B cap 3"]
    lengths: Int[Array, "Y B"]
    stored: Int[Array, "Y B"]
    key_scales: Float[Array, "Y B cap A"] | None = None
    value_scales: Float[Array, "Y B cap A"] | None = None
    heads: Float[Array, "Y B cap A"] | None = (
        None  # 1 where a head keeps the row, with `memory.granularity` "head"
    )


Rows = TypeVar("Rows", KVBank, Entry)


@flax.struct.dataclass
class PendingEntry:
    """One chunk before its rows are moved: `rows` has all N of them instead of a slot's."""

    rows: Entry
    index: Int[Array, "Y B cap"]  # of the token that each row of the slot is


def check(model: ModelConfig) -> None:
    """Raises `UserError`, in one sentence, when the memory cannot work as `model` says."""
    memory, build, retrieval = model.memory, model.build, model.retrieval
    if "latents" in rules.rule_of(retrieval.kind).needs and memory.offload == "host":
        raise UserError(
            f"retrieval.kind {retrieval.kind!r} looks at latents, and memory.offload='host' decides "
            "what each chunk sees before there are any; use memory.offload='none'"
        )
    if model.dit.previous_latent and memory.offload == "host":
        raise UserError(
            "dit.previous_latent keeps the latents of chunks in the bank, which memory.offload='host' does not; use "
            "memory.offload='none'"
        )
    for name, value, legal in (
        ("memory.evict", memory.evict, EVICT),
        ("memory.cover", memory.cover, importance.COVERS),
        ("memory.norm", memory.norm, importance.NORMS),
        ("memory.dtype", memory.dtype, storage.DTYPES),
        ("memory.offload", memory.offload, storage.OFFLOADS),
        ("memory.granularity", memory.granularity, importance.GRANULARITIES),
        ("build.softmax_over", build.softmax_over, importance.SOFTMAXES),
        ("build.context", build.context, CONTEXTS),
        ("build.mask", build.mask, importance.MASKS),
        ("build.probe", build.probe, importance.PROBES),
        ("rope.mode", model.rope.mode, ROPE_MODES),
    ):
        if value not in legal:
            choices = ", ".join(str(choice) or "''" for choice in legal)
            raise UserError(f"{name} is {value!r}; it can be {choices}")
    for name, count, least in (
        ("memory.capacity", memory.capacity, 1),
        ("build.n_recent", build.n_recent, 0),
        ("build.n_random", build.n_random, 0),
        ("retrieval.num_recent", retrieval.num_recent, 0),
        ("retrieval.offset", retrieval.offset, 0),
        ("retrieval.num_retrieved", retrieval.num_retrieved, 0),
        ("retrieval.route", retrieval.route, 0),
    ):
        if count < least:
            raise UserError(f"{name} is {count}; it must be {least} or more")
    for name, sigma in (
        ("build.label", build.label),
        ("build.context_noise", build.context_noise),
    ):
        if not 0 <= sigma < 1:
            raise UserError(f"{name} is {sigma}; it is a sigma and must be at least 0 and below 1")
        if sigma and model.levels.context:
            raise UserError(
                f"{name} is {sigma}; with levels.context entries have the level of their chunk: it must be 0"
            )
    if not 0 < memory.tau <= 1:
        raise UserError(f"memory.tau is {memory.tau}; it must be above 0 and at most 1")
    if build.probe != "full" and build.n_recent + build.n_random < 1:
        raise UserError("build.n_recent and build.n_random are both 0; their sum must be 1 or more")
    needed = memory.anchor + retrieval.span + 1
    if memory.slots < needed:
        raise UserError(
            f"memory.slots is {memory.slots}; it must be {needed} or more: the anchor (if on), the "
            f"retrieval.num_recent + offset = {retrieval.span} last chunks, never evicted, and one more"
        )
    if build.softmax_over == "all" and build.context == "none":
        raise UserError(
            "build.softmax_over is 'all', and build.context 'none' encodes a chunk without any other keys; use "
            "build.context='with'"
        )
    if build.softmax_over == "all" and retrieval.route:
        raise UserError(
            f"retrieval.route is {retrieval.route}; with build.softmax_over='all' it must be 0"
        )
    if memory.granularity == "head":
        for key, given, needed_value in (
            ("memory.offload", memory.offload, "none"),
            ("retrieval.route", retrieval.route, 0),
            ("retrieval.dense_recent", retrieval.dense_recent, False),
        ):
            if given != needed_value:
                raise UserError(
                    f"{key} is {given!r}; with memory.granularity='head' it must be {needed_value!r}"
                )
    grid = ChunkGrid.of(model)
    anchor_tokens = grid.first_entry_latents // model.dit.patch[0] * grid.tokens_per_latent
    if memory.anchor and memory.capacity < anchor_tokens:
        raise UserError(
            f"memory.capacity is {memory.capacity}; the anchor is kept whole, so it must be "
            f"{anchor_tokens} or more (or memory.anchor=false)"
        )
    if retrieval.dense_recent and memory.capacity < grid.tokens_per_chunk:
        raise UserError(
            f"memory.capacity is {memory.capacity}; retrieval.dense_recent keeps whole chunks, so "
            f"it must be {grid.tokens_per_chunk} or more"
        )


def init_bank(model: ModelConfig, batch: int, dtype: DTypeLike) -> KVBank:
    """An empty bank; `dtype` is that of the stored keys and values (`storage.storage_dtype`)."""
    slots = (model.dit.num_layers, batch, model.memory.slots)
    rows = {
        name: jnp.zeros((*slots, *x.shape[2:]), x.dtype)
        for name, x in vars(entry_shapes(model, batch, dtype)).items()
        if x is not None
    }
    return KVBank(**rows, **vars(init_slot_table(model, batch)))


def slot_table_of(bank: KVBank) -> SlotTable:
    """Returns the part of a bank that decides about slots and selections."""
    return SlotTable(bank.embedding, bank.chunk_id, bank.valid, bank.latents)


def entry_shapes(model: ModelConfig, batch: int, dtype: DTypeLike) -> Entry:
    """Returns the shapes and dtypes of one entry of a bank of `dtype`."""
    layers, by_head = (model.dit.num_layers, batch), model.memory.granularity == "head"
    heads = (*layers, model.memory.capacity, model.dit.num_heads)
    rows = jax.ShapeDtypeStruct((*heads, model.dit.head_dim), dtype)
    scales = jax.ShapeDtypeStruct(heads, jnp.float32) if storage.has_scales(dtype) else None
    count = jax.ShapeDtypeStruct(layers, jnp.int32)
    of_heads: Any = jax.ShapeDtypeStruct(heads, jnp.float32) if by_head else None
    return Entry(
        keys=rows,
        values=rows,
        positions=jax.ShapeDtypeStruct((*heads[:-1], 3), jnp.int32),
        lengths=count,
        stored=count,
        key_scales=scales,
        value_scales=scales,
        heads=of_heads,
    )


def axes(rows: Any) -> dict[str, tuple]:
    """Returns the mesh axes that each field of a bank, an entry or `BankRows` is sharded over, for `Layout`."""
    leading = (None,) * (rows.positions.ndim - 2)  # layers, batch (and slots)
    sharded = {name: (*leading, TOKENS, *heads) for name, heads in _HEADS.items()}
    return {name: sharded.get(name, ()) for name, x in vars(rows).items() if x is not None}


def shardings(bank: KVBank, layout: Layout) -> KVBank:
    """Returns the sharding of each field of a bank, by `axes`."""
    return bank.replace(**{name: layout.sharding(*names) for name, names in axes(bank).items()})


def shard(rows: Rows, layout: Layout) -> Rows:
    """Returns `rows` sharded as `axes` says."""
    specs = axes(rows).items()
    return dataclasses.replace(
        rows, **{n: layout.constrain(getattr(rows, n), *spec) for n, spec in specs}
    )


def keep_rows(
    kv: ChunkKV,
    keep: Bool[Array, "Y B 1 *N"],
    positions: Int[Array | np.ndarray, "N 3"],
    capacity: int,
    dense: bool = False,
    dtype: DTypeLike | None = None,
) -> PendingEntry:
    """All rows of one chunk in the form that the bank stores, and which of them to keep.

    Args:
      kv: keys after qk-norm and before RoPE, with a chunk axis of length 1.
      keep: at most `capacity` true per row (`keep_mask`); all true for the anchor.  [Y B 1 A N]: of each head.
      positions: (t, h, w) of the chunk's tokens, t counted from its first latent.
      dense: `retrieval.dense_recent`: the other rows follow the kept ones.
      dtype: in which the bank stores keys and values; None: as they come.

    Raises:
      ValueError: `dense` and the chunk does not fit into a slot.
    """
    num_tokens, heads = keep.shape[-1], None
    if keep.ndim == 5:
        heads = keep[:, :, 0].swapaxes(-1, -2).astype(jnp.float32)
        keep = keep.any(axis=3)
    if dense and num_tokens > capacity:
        raise ValueError(f"a dense entry of {num_tokens} tokens exceeds the capacity {capacity}")
    index, lengths = kept_first(keep[:, :, 0], capacity)
    keys, key_scales = storage.encode(kv.keys[:, :, 0], dtype)
    values, value_scales = storage.encode(kv.values[:, :, 0], dtype)
    tokens = jnp.broadcast_to(positions.astype(jnp.int32), (*lengths.shape, num_tokens, 3))
    stored = jnp.full_like(lengths, num_tokens) if dense else lengths
    rows = Entry(keys, values, tokens, lengths, stored, key_scales, value_scales, heads)
    return PendingEntry(rows, index)


def is_finite(rows: Entry) -> Bool[Array, ""]:
    """Returns whether all keys and values are finite; rows in 8 bits are when their scales are."""
    scaled = rows.key_scales is not None
    parts = (rows.key_scales, rows.value_scales) if scaled else (rows.keys, rows.values)
    return jnp.stack([jnp.isfinite(part).all() for part in jax.tree.leaves(parts)]).all()


def gather(pending: PendingEntry, layout: Layout = ONE_DEVICE) -> Entry:
    """The kept rows alone, in position order (Algorithm 2, line 13).

    On a mesh each device makes its own rows of the slot, layer by layer, from all of the chunk's:
    which tokens are kept does not depend on the mesh.  Rows that do not divide are replicated.
    """
    tokens, index = pending.rows, pending.index
    names = ("keys", "values", "key_scales", "value_scales", "heads")
    rows = {name: getattr(tokens, name) for name in names}
    entry = tokens.replace(
        **_kept_rows(rows, index, tokens.stored, layout),
        positions=take_rows(tokens.positions, index, tokens.stored),
    )
    return shard(entry, layout)


def _kept_rows(rows, index, stored, layout: Layout):
    """Rows `index` [Y, B, C] of each [Y, B, N, A, ...], zeros from row `stored` [Y, B] on."""
    if layout.mesh is None:
        return jax.tree.map(lambda x: take_rows(x, index, stored), rows)

    sharded = layout.for_tokens(rows["keys"].shape[2]) == layout

    def of_layer(layer):
        rows, index, stored = layer
        if sharded:
            rows = jax.tree.map(lambda x: jax.lax.all_gather(x, TOKENS, axis=1, tiled=True), rows)
        count = index.shape[-1] // layout.size(*TOKENS)
        first = jax.lax.axis_index(TOKENS) * count
        index = jax.lax.dynamic_slice_in_dim(index, first, count, axis=-1)
        return jax.tree.map(lambda x: take_rows(x, index, stored - first), rows)

    out_spec = P(None, None, TOKENS, "tensor")
    in_spec = out_spec if sharded else P(None, None, None, "tensor")
    gather_layers = layout.manual(
        lambda *layers: jax.lax.map(of_layer, layers), (in_spec, P(), P()), out_spec
    )
    return gather_layers(rows, index, stored)


def write(
    bank: KVBank,
    entry: PendingEntry | Entry,
    embedding: Float[Array, "B Dt"],
    chunk_id: Int[Array, ""],
    memory: MemoryConfig,
    num_recent: int,
    kernels: str = "auto",
    latents: Float[Array, "B k h w z"] | None = None,
) -> KVBank:
    """The bank with chunk `chunk_id` in it; the one write of a step, a resume and a rebuild.

    `slot_table.insert` chooses the slot.  A chunk that there is none for is not written.  A `PendingEntry`
    goes straight into the slot, in place where the bank is donated; an `Entry`, whose rows are
    together already, is how a mesh writes.

    Args:
      entry: in the `dtype` of the bank.
      kernels: `implementation` of `kv_gather.write_rows`.
      latents: of the chunk, clean, for a retrieval rule that needs them.

    Raises:
      UserError: unknown `memory.evict`.  ValueError: one of bank and entry has scales, or
        `latents` are missing.
    """
    table, slot = insert(slot_table_of(bank), embedding, chunk_id, memory, num_recent, latents)
    return put(bank, entry, table, slot, kernels)


def put(
    bank: KVBank,
    entry: PendingEntry | Entry,
    table: SlotTable,
    slot: Int[Array, "B"],
    kernels: str = "auto",
) -> KVBank:
    """The bank with an entry in `slot`, and the table that goes with it; see `write`.

    Raises:
      ValueError: one of bank and entry has scales.
    """
    rows = entry.rows if isinstance(entry, PendingEntry) else entry
    if (bank.key_scales is None) != (rows.key_scales is None):
        raise ValueError(
            f"an entry of {rows.keys.dtype} is no entry of a bank of {bank.keys.dtype}"
        )
    batch = jnp.arange(slot.shape[0])

    def set_field(name, value):
        field = getattr(bank, name)
        if isinstance(entry, PendingEntry) and name in _HEADS:
            return write_rows(field, value, entry.index, rows.stored, slot, implementation=kernels)
        return field.at[:, batch, slot].set(value.astype(field.dtype), mode="drop")

    fields = {name: set_field(name, x) for name, x in vars(rows).items() if x is not None}
    return KVBank(**fields, **vars(table))
