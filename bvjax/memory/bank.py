"""KVBank: sparse keys and values of past chunks in a fixed number of fixed-capacity slots.

Keys are stored after qk-norm and before RoPE, with their positions, so that the time at which a
later chunk sees an entry is decided when its context is assembled.  Chunk ids, lengths and counts
are arrays: one compilation serves a story of any length.

With `memory.anchor` the entry with id 0 (the guidance latent; with chunk.first="joined" the whole
first chunk) owns slot 0 for good and is seen by every chunk.  Without it id 0 is an entry like
any other, and whoever has a guidance latent does not write it.

`retrieval.dense_recent` needs no second copy: a slot then holds all rows of its chunk, the kept
ones first.  `lengths` counts the kept rows and `stored` all of them, so an entry is whole or
sparse by the length that is read, and it becomes sparse when it leaves the recent window.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from bvjax.chunking import ChunkGrid
from bvjax.config import MemoryConfig, ModelConfig
from bvjax.errors import UserError
from bvjax.memory import salience
from bvjax.memory.similarity import cosine
from bvjax.nets.dit import ChunkKV
from bvjax.sharding import ONE_DEVICE, TOKENS, Layout
from kernels_pallas.kv_gather import kept_first, take_rows

EVICT = ("redundant", "oldest")
RETRIEVE = ("semantic", "rolling", "random", "oracle", "none")
CONTEXTS = ("none", "with")
ROPE_MODES = ("absolute", "local", "window", "packed")


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


@flax.struct.dataclass
class Entry:
    """One chunk, ready to be written."""

    keys: Float[Array, "Y B cap A K"]
    values: Float[Array, "Y B cap A K"]
    positions: Int[Array, "Y B cap 3"]
    lengths: Int[Array, "Y B"]
    stored: Int[Array, "Y B"]


def check(model: ModelConfig) -> None:
    """Raises `UserError`, in one sentence, when the memory cannot work as `model` says."""
    memory, build, retrieval = model.memory, model.build, model.retrieval
    for name, value, legal in (
        ("memory.evict", memory.evict, EVICT),
        ("memory.cover", memory.cover, salience.COVERS),
        ("memory.norm", memory.norm, salience.NORMS),
        ("build.context", build.context, CONTEXTS),
        ("build.mask", build.mask, salience.MASKS),
        ("build.probe", build.probe, salience.PROBES),
        ("retrieval.kind", retrieval.kind, RETRIEVE),
        ("rope.mode", model.rope.mode, ROPE_MODES),
    ):
        if value not in legal:
            raise UserError(f"{name} is {value!r}; it can be {', '.join(legal)}")
    for name, value, least in (
        ("memory.capacity", memory.capacity, 1),
        ("build.n_recent", build.n_recent, 0),
        ("build.n_random", build.n_random, 0),
        ("retrieval.recent", retrieval.recent, 0),
        ("retrieval.l", retrieval.l, 0),
    ):
        if value < least:
            raise UserError(f"{name} is {value}; it must be {least} or more")
    for name, value in (
        ("build.label", build.label),
        ("build.context_noise", build.context_noise),
    ):
        if not 0 <= value < 1:
            raise UserError(f"{name} is {value}; it is a sigma and must be at least 0 and below 1")
    if not 0 < memory.tau <= 1:
        raise UserError(f"memory.tau is {memory.tau}; it must be above 0 and at most 1")
    if build.probe != "full" and build.n_recent + build.n_random < 1:
        raise UserError("build.n_recent and build.n_random are both 0; their sum must be 1 or more")
    needed = memory.anchor + retrieval.recent + 1
    if memory.slots < needed:
        raise UserError(
            f"memory.slots is {memory.slots}; it must be {needed} or more: the anchor (if on), the "
            f"retrieval.recent = {retrieval.recent} last chunks, never evicted, and one more"
        )
    grid = ChunkGrid(model.chunk, 1, model.dit.patch)
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


def init_bank(model: ModelConfig, batch: int, dtype: jnp.dtype) -> KVBank:
    """An empty bank; `dtype` is that of the stored keys and values."""
    dit, memory = model.dit, model.memory
    slots = (dit.num_layers, batch, memory.slots)
    rows = (*slots, memory.capacity)
    return KVBank(
        keys=jnp.zeros((*rows, dit.num_heads, dit.head_dim), dtype),
        values=jnp.zeros((*rows, dit.num_heads, dit.head_dim), dtype),
        positions=jnp.zeros((*rows, 3), jnp.int32),
        lengths=jnp.zeros(slots, jnp.int32),
        stored=jnp.zeros(slots, jnp.int32),
        embedding=jnp.zeros((batch, memory.slots, model.text.dim), jnp.float32),
        chunk_id=jnp.full((batch, memory.slots), -1, jnp.int32),
        valid=jnp.zeros((batch, memory.slots), bool),
    )


def shardings(bank: KVBank, layout: Layout) -> KVBank:
    """How the fields of `bank` are cut: rows of slots along `TOKENS`, heads along `tensor`."""
    rows = None, None, None, TOKENS
    of = dict(keys=(*rows, "tensor"), values=(*rows, "tensor"), positions=rows)
    return bank.replace(**{name: layout.sharding(*of.get(name, ())) for name in vars(bank)})


def cut(bank: KVBank, layout: Layout) -> KVBank:
    """`bank`, told to the compiler to be cut as `shardings` says."""
    if layout.mesh is None:
        return bank
    return jax.lax.with_sharding_constraint(bank, shardings(bank, layout))


def make_entry(
    kv: ChunkKV,
    keep: Bool[Array, "Y B 1 N"],
    positions: Int[Array, "N 3"],
    capacity: int,
    dense: bool = False,
    layout: Layout = ONE_DEVICE,
) -> Entry:
    """The kept rows of one chunk (Algorithm 2, line 13), in position order.

    Args:
      kv: keys after qk-norm and before RoPE, with a chunk axis of length 1.
      keep: at most `capacity` true per row (`keep_mask`); all true for the anchor.
      positions: (t, h, w) of the chunk's tokens, t counted from its first latent.
      dense: `retrieval.dense_recent`: the other rows follow the kept ones.
      layout: each device then makes its own rows of the slot, layer by layer, from all of the
        chunk's: which tokens are kept does not depend on the mesh.

    Raises:
      ValueError: `dense` and the chunk does not fit into a slot.
    """
    num_tokens = keep.shape[-1]
    if dense and num_tokens > capacity:
        raise ValueError(f"a dense entry of {num_tokens} tokens exceeds the capacity {capacity}")
    index, lengths = kept_first(keep[:, :, 0], capacity)
    stored = jnp.full_like(lengths, num_tokens) if dense else lengths
    tokens = jnp.broadcast_to(positions.astype(jnp.int32), (*lengths.shape, num_tokens, 3))
    keys, values = _kept_rows(kv.keys[:, :, 0], kv.values[:, :, 0], index, stored, layout)
    return Entry(
        keys=keys,
        values=values,
        positions=take_rows(tokens, index, stored),
        lengths=lengths,
        stored=stored,
    )


def _kept_rows(keys, values, index, stored, layout: Layout):
    """Rows `index` [Y, B, C] of keys and values [Y, B, N, A, K], zeros from row `stored` [Y, B] on."""
    if layout.mesh is None:
        return take_rows(keys, index, stored), take_rows(values, index, stored)

    def of_layer(layer):
        keys, values, index, stored = layer
        keys, values = (jax.lax.all_gather(x, TOKENS, axis=1, tiled=True) for x in (keys, values))
        own = index.shape[-1] // layout.size(*TOKENS)
        first = jax.lax.axis_index(TOKENS) * own
        index = jax.lax.dynamic_slice_in_dim(index, first, own, axis=-1)
        return tuple(take_rows(x, index, stored - first) for x in (keys, values))

    rows = P(None, None, TOKENS, "tensor")
    every = layout.manual(
        lambda *layers: jax.lax.map(of_layer, layers), (rows, rows, P(), P()), (rows, rows)
    )
    return every(keys, values, index, stored)


def write(
    bank: KVBank,
    entry: Entry,
    embedding: Float[Array, "B Dt"],
    chunk_id: Int[Array, ""],
    memory: MemoryConfig,
    recent: int,
) -> KVBank:
    """The bank with chunk `chunk_id` in it; the one write of a step, a resume and a rebuild.

    The slot is, in this order: slot 0 for id 0 when `memory.anchor`; the slot that holds this id
    already; the first free one; the one `memory.evict` gives up, `oldest` the lowest id,
    `redundant` the entry whose caption is most like that of another entry (of a pair the older).
    The anchor and the ids from `chunk_id - recent` on are never evicted.  A chunk that this
    leaves no slot for (older than all that is kept) is not written.

    Raises:
      UserError: unknown `memory.evict`.
    """
    slot = _choose_slot(bank, embedding, chunk_id, memory, recent)
    rows = jnp.arange(slot.shape[0])

    def put(field: Array, value: Array) -> Array:
        return field.at[:, rows, slot].set(value.astype(field.dtype), mode="drop")

    def put_row(field: Array, value: Array | bool) -> Array:
        return field.at[rows, slot].set(value, mode="drop")

    return KVBank(
        keys=put(bank.keys, entry.keys),
        values=put(bank.values, entry.values),
        positions=put(bank.positions, entry.positions),
        lengths=put(bank.lengths, entry.lengths),
        stored=put(bank.stored, entry.stored),
        embedding=put_row(bank.embedding, embedding.astype(jnp.float32)),
        chunk_id=put_row(bank.chunk_id, jnp.asarray(chunk_id, jnp.int32)),
        valid=put_row(bank.valid, True),
    )


def _choose_slot(
    bank: KVBank,
    embedding: Float[Array, "B Dt"],
    chunk_id: Int[Array, ""],
    memory: MemoryConfig,
    recent: int,
) -> Int[Array, "B"]:
    """Slot to write in each row; the number of slots, which a scatter drops, if there is none."""
    slots = bank.valid.shape[-1]
    own = jnp.arange(slots) >= int(memory.anchor)
    same = own & bank.valid & (bank.chunk_id == chunk_id)
    free = own & ~bank.valid
    old = own & bank.valid & (bank.chunk_id < chunk_id - recent)
    if memory.evict == "redundant":
        others = own & bank.valid
        likeness = _redundancy(bank.embedding, embedding, others)
        most = jnp.where(old, likeness, -jnp.inf).max(-1, keepdims=True)
        old &= likeness == most
    elif memory.evict != "oldest":
        raise UserError(f"memory.evict is {memory.evict!r}; it can be {', '.join(EVICT)}")
    age = jnp.where(old, bank.chunk_id, jnp.iinfo(jnp.int32).max)
    slot = jnp.select(
        [same.any(-1), free.any(-1), old.any(-1)],
        [same.argmax(-1), free.argmax(-1), age.argmin(-1)],
        slots,
    )
    if memory.anchor:
        slot = jnp.where(chunk_id == 0, 0, slot)
    return slot


def _redundancy(
    stored: Float[Array, "B slot Dt"], new: Float[Array, "B Dt"], others: Bool[Array, "B slot"]
) -> Float[Array, "B slot"]:
    """Largest cosine of each entry's caption to that of any of the `others` and of the new entry.

    The anchor is not among the others: it has chunk 1's caption, but one frame is not a chunk.
    """
    everyone = jnp.concatenate([stored, new[:, None]], axis=1)
    alike = cosine(stored[:, :, None], everyone[:, None])
    slots = stored.shape[1]
    counted = jnp.pad(others, ((0, 0), (0, 1)), constant_values=True)[:, None]
    counted = counted & ~jnp.eye(slots, slots + 1, dtype=bool)
    return jnp.where(counted, alike, -jnp.inf).max(-1)
