"""Selection of the past chunks that the target sees, and their rows as one context (Algorithm 1, Eq. 8, 9)."""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from bvjax.config import ModelConfig
from bvjax.memory import rules, storage
from bvjax.memory.bank import Entry, KVBank
from bvjax.memory.bank import axes as bank_axes
from bvjax.memory.slot_table import SlotTable
from bvjax.nets.dit import Context
from bvjax.nets.rope import angles, apply_rope
from bvjax.sharding import ONE_DEVICE, TOKENS, Layout
from kernels_pallas.kv_gather import pack


@flax.struct.dataclass
class BankRows:
    """The arrays that a context is gathered from: the rows of some slots of a bank."""

    keys: Float[Array, "*Y B slot cap A K"]
    values: Float[Array, "*Y B slot cap A K"]
    positions: Int[Array, "*Y B slot cap 3"]
    key_scales: Float[Array, "*Y B slot cap A"] | None = None
    value_scales: Float[Array, "*Y B slot cap A"] | None = None


@flax.struct.dataclass
class Selection:
    """The E = anchor + num_retrieved + num_recent entries of a context, [anchor | semantic | recent]."""

    index: Int[Array, "B E"]  # slot; 0 where not valid
    chunk_id: Int[Array, "B E"]  # -1 where not valid
    valid: Bool[Array, "B E"]
    recent: Bool[Array, "B E"]  # entries of the sequential window, seq_ctx of Eq. 9
    scores: Float[Array, "B slot"]
    # Eq. 8 whatever the kind; 0 for the anchor and where not valid.
    similarity: Float[Array, "B E"] | None = None


@flax.struct.dataclass
class GatheredEntries:
    """The entries that one chunk sees of a bank held elsewhere, each in arrays of its own."""

    entries: tuple[Entry, ...]  # in the order of the selection; any where that is not valid
    selection: Selection  # its `index` is into `entries`, its scores are theirs

    @property
    def lengths(self) -> Int[Array, "Y B E"]:
        return jnp.stack([entry.lengths for entry in self.entries], axis=2)

    @property
    def stored(self) -> Int[Array, "Y B E"]:
        return jnp.stack([entry.stored for entry in self.entries], axis=2)


@flax.struct.dataclass
class SelectedBank:
    """A bank, and the entries of it that one chunk sees."""

    bank: KVBank
    selection: Selection


def select(
    scores: Float[Array, "B slot"],
    chunk_id: Int[Array, "B slot"],
    valid: Bool[Array, "B slot"],
    target_chunk: Int[Array, ""],
    num_recent: int,
    num_retrieved: int,
    anchor: bool,
    shot: Int[Array, ""] | None = None,
    offset: int = 0,
) -> Selection:
    """The entries that chunk c = `target_chunk` sees: the anchor, the top `num_retrieved`, and
    {c - offset - num_recent .. c - offset - 1}.

    The top ones are taken among entries that are valid, earlier than the target, neither anchor nor
    recent, and not scored -inf; ties go to the most recent.  Missing entries are not valid and come
    first in their group; the others are in ascending order of id.

    Args:
      offset: chunks between the recent ones and the target; they are among those that are ranked.
      shot: the id of the first chunk of the target's shot; None: 0, all chunks are of one.  Chunks before it are not
        recent, however near: they are among those that are ranked.
    """
    target = jnp.asarray(target_chunk, jnp.int32)
    slots = chunk_id.shape[-1]
    history = valid & (chunk_id < target)
    groups = []  # (slot, present) of each group, [B, group]
    if anchor:
        is_anchor = jnp.arange(slots) == 0
        groups.append((jnp.zeros_like(chunk_id[:, :1]), history[:, :1]))
        history = history & ~is_anchor

    end = target - offset
    oldest = end - num_recent  # of the recent ones
    if shot is not None:
        oldest = jnp.maximum(oldest, shot)
    candidates = history & ((chunk_id < oldest) | (chunk_id >= end)) & (scores > -jnp.inf)
    order = jnp.lexsort((-chunk_id, -jnp.where(candidates, scores, -jnp.inf)), axis=-1)
    order = jnp.pad(
        order[:, :num_retrieved], ((0, 0), (0, max(0, num_retrieved - slots)))
    )  # more requested than slots
    present = jnp.take_along_axis(candidates, order, axis=-1) & (jnp.arange(num_retrieved) < slots)
    by_id = jnp.argsort(jnp.where(present, jnp.take_along_axis(chunk_id, order, -1), -1), axis=-1)
    groups.append(tuple(jnp.take_along_axis(x, by_id, -1) for x in (order, present)))

    ids = end - jnp.arange(num_recent, 0, -1)
    match = history[:, None] & (chunk_id[:, None] == ids[:, None]) & (ids >= oldest)[:, None]
    groups.append((match.argmax(-1), match.any(-1)))

    index, present = (jnp.concatenate(parts, axis=-1) for parts in zip(*groups, strict=True))
    in_window = jnp.arange(index.shape[-1]) >= index.shape[-1] - num_recent
    return Selection(
        index=jnp.where(present, index, 0).astype(jnp.int32),
        chunk_id=jnp.where(present, jnp.take_along_axis(chunk_id, index, -1), -1),
        valid=present,
        recent=present & in_window,
        scores=scores,
    )


def retrieve(
    bank: KVBank | SlotTable,
    target_embedding: Float[Array, "B Dt"],
    target_chunk: Int[Array, ""],
    model: ModelConfig,
    key: Key[Array, ""] | None = None,
    oracle: Float[Array, "B slot"] | None = None,
    shot: Int[Array, ""] | None = None,
) -> Selection:
    """Scores by `retrieval.kind` and `select` with the sizes of `model` (Algorithm 1, stage B).

    Args:
      key: for a rule that draws.
      oracle: for a rule that is told what is relevant; -inf marks entries that must not be chosen.
      shot: as of `select`.

    Raises:
      UserError: unknown kind.  ValueError: what the rule needs is missing.
    """
    r, anchor = model.retrieval, model.memory.anchor
    rule = rules.rule_of(r.kind)
    first = jnp.arange(bank.valid.shape[-1]) == 0
    entries = rules.Candidates(
        target=jnp.broadcast_to(target_chunk, bank.valid.shape[:-1]),
        chunk_id=bank.chunk_id,
        valid=bank.valid & ~first if anchor else bank.valid,
        target_caption=target_embedding,
        captions=bank.embedding,
        key=key,
        oracle=oracle,
        latents=bank.latents,
    )
    scores, valid = rules.score(r.kind, entries, r), bank.valid
    if not rule.looks_back:
        valid = valid & first if anchor else jnp.zeros_like(valid)
    picked = select(
        scores,
        bank.chunk_id,
        valid,
        target_chunk,
        r.num_recent,
        r.num_retrieved,
        anchor,
        shot,
        r.offset,
    )
    if rule.score is not rules.semantic:
        scores = rules.semantic(entries, r)
    scored = picked.valid & (jnp.arange(picked.valid.shape[-1]) >= anchor)
    similarity = jnp.take_along_axis(scores, picked.index, axis=-1)
    return picked.replace(similarity=jnp.where(scored, similarity, 0.0))


def assemble(
    bank: KVBank | GatheredEntries,
    selection: Selection,
    entry_base: Int[Array, "B E"],
    theta: float,
    layout: Layout = ONE_DEVICE,
    dtype: DTypeLike | None = None,
    null: tuple[KVBank | GatheredEntries, Selection] | None = None,
) -> Context:
    """(K*, V*) of Eq. 9: the selected rows, rotated at (base + t, h, w) and packed without gaps.

    Entries of the recent window are read to `stored`, the others to `lengths`; the two differ only
    with `retrieval.dense_recent`.

    Args:
      entry_base: latent frame at which each entry begins (`time_bases`).
      theta: RoPE base of the model.
      layout: each device then makes its own rows of the context, layer by layer, from all rows of
        the selected slots.
      dtype: of the keys and values of the context; None: as they are stored.
      null: of the null branch, with the same slots: the context is then of both branches (B = 2),
        sharded over `data`.  Only on a mesh.

    Returns:
      A `Context` with a chunk axis of length 1 and E * capacity rows, `length` of them valid.
    """
    branches = [(bank, selection)] if null is None else [(bank, selection), null]
    lengths = jnp.concatenate([_lengths(*branch) for branch in branches], axis=1)
    similarity = jnp.concatenate([selected.similarity for _, selected in branches])
    banks = [bank] if null is None or null[0] is bank else [bank, null[0]]
    operands = (selection.index, lengths, entry_base, theta, dtype)
    if layout.mesh is None and not isinstance(bank, GatheredEntries):
        keys, values = _rotated(_rows(bank), *operands, layout.kernels)
    else:
        keys, values = _by_layer([_rows(source) for source in banks], *operands, layout)
    length = lengths.sum(-1, dtype=jnp.int32)
    capacity = keys.shape[2] // lengths.shape[-1]
    similarity = jnp.broadcast_to(similarity[None, ..., None], (*lengths.shape, capacity))
    similarity, _ = pack(similarity, lengths, implementation="xla")
    heads = None
    if isinstance(bank, KVBank) and bank.heads is not None:
        slots = jnp.broadcast_to(selection.index, lengths.shape)
        heads = pack(bank.heads, lengths, slots=slots, implementation="xla")[0] > 0
    return Context(
        keys=keys[:, :, None],
        values=values[:, :, None],
        length=length[:, :, None],
        similarity=similarity[:, :, None],
        heads=None if heads is None else heads[:, :, None],
    )


def _lengths(bank: KVBank | GatheredEntries, selection: Selection) -> Int[Array, "Y B E"]:
    """Rows that are read of each entry."""
    index = selection.index[None]
    stored, kept = (jnp.take_along_axis(x, index, axis=2) for x in (bank.stored, bank.lengths))
    return jnp.where(selection.valid, jnp.where(selection.recent, stored, kept), 0)


def row_owners(
    bank: KVBank | GatheredEntries, selection: Selection, rows: int
) -> Int[Array, "Y B s"]:
    """For each of so many rows of the context of `assemble`, the entry that it is of; E where it is of none."""
    edges = jnp.cumsum(_lengths(bank, selection), axis=-1)
    row = jnp.arange(rows, dtype=jnp.int32)
    return (row >= edges[..., None]).sum(-2, dtype=jnp.int32)


def _rows(bank: KVBank | Entry | GatheredEntries) -> BankRows | tuple[BankRows, ...]:
    if isinstance(bank, GatheredEntries):
        return tuple(_rows(entry) for entry in bank.entries)
    return BankRows(**{field: getattr(bank, field) for field in BankRows.__dataclass_fields__})


def _rotated(rows, slots, lengths, entry_base, theta, dtype, kernels, window=None):
    """Keys and values [..., T, A, K] of the slots [B, E], packed; keys rotated.

    T is all E * cap rows, or those of `window` (`kv_gather.pack`).
    """
    index = jnp.broadcast_to(slots, lengths.shape)[..., None, None]
    positions = jnp.take_along_axis(rows.positions, index, axis=lengths.ndim - 1)
    positions = positions.at[..., 0].add(entry_base[..., None])
    positions, _ = pack(positions, lengths, window=window, implementation="xla")
    rotation = angles(positions, rows.keys.shape[-1], theta)
    move = functools.partial(pack, lengths=lengths, slots=slots, window=window)

    def packed(stored, scales, rotation=None):
        if scales is None and stored.dtype == (dtype or stored.dtype):
            return move(stored, angles=rotation, implementation=kernels)[0]
        stored, _ = move(stored, implementation=kernels)
        if scales is not None:
            scales, _ = move(scales, implementation="xla")
        stored = storage.decode(stored, scales, dtype)
        return stored if rotation is None else apply_rope(stored, rotation, kernels)

    return packed(rows.keys, rows.key_scales, rotation), packed(rows.values, rows.value_scales)


def _by_layer(banks, slots, lengths, entry_base, theta, dtype, layout):
    """`_rotated` a layer at a time: of entries in arrays of their own, or of rows sharded over `TOKENS`.

    Sharded rows are gathered, and the packed ones sharded again so that they are even.  With two rows of
    `lengths` each device makes the context of its branch, from that branch's bank if it has one.
    """

    def of_layer(slots, entry_base, layer):
        (rows, *null_rows), lengths = layer
        if null_rows:
            first = jax.lax.axis_index("data") == 0
            rows = jax.tree.map(lambda a, b: jnp.where(first, a, b), rows, *null_rows)
        if isinstance(rows, tuple):
            rows = jax.tree.map(lambda *entries: jnp.stack(entries, axis=1), *rows)
        if layout.mesh is None:
            return _rotated(rows, slots, lengths, entry_base, theta, dtype, layout.kernels)
        picked = jax.tree.map(lambda x: jax.vmap(lambda row, i: row[i])(x, slots), rows)
        gathered = jax.tree.map(lambda x: jax.lax.all_gather(x, TOKENS, axis=2, tiled=True), picked)
        count = lengths.shape[-1] * picked.keys.shape[2]
        first = jax.lax.axis_index(TOKENS) * count
        all_slots = jnp.broadcast_to(jnp.arange(slots.shape[-1]), slots.shape)
        window = first, count
        return _rotated(
            gathered, all_slots, lengths, entry_base, theta, dtype, layout.kernels, window
        )

    def of_layers(banks, lengths, slots, entry_base):
        return jax.lax.map(functools.partial(of_layer, slots, entry_base), (banks, lengths))

    inputs = banks, lengths, slots, entry_base
    if layout.mesh is None:
        return of_layers(*inputs)
    specs = jax.tree.map(_specs, banks, is_leaf=lambda x: isinstance(x, BankRows))
    branch = "data" if lengths.shape[1] == 2 else None
    out = P(None, branch, TOKENS, "tensor")
    return layout.manual(of_layers, (specs, P(None, branch), P(), P()), (out, out))(*inputs)


def _specs(rows: BankRows) -> BankRows:
    return BankRows(**{name: P(*axes) for name, axes in bank_axes(rows).items()})
