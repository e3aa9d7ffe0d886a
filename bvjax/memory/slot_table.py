"""The table of chunks by slot: captions, ids, and the entry that a new one evicts.

Nothing here depends on latents, so all of it is known before a video begins, unless the retrieval
rule looks at them: then the table holds them too.
"""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bvjax.chunking import ChunkGrid
from bvjax.config import MemoryConfig, ModelConfig
from bvjax.errors import UserError
from bvjax.memory.rules import rule_of
from bvjax.memory.similarity import cosine
from bvjax.nets.previous_latent import PreviousLatent

EVICT = ("redundant", "oldest")


@flax.struct.dataclass
class SlotTable:
    """The slots of a bank without their rows; an empty one has chunk id -1."""

    embedding: Float[Array, "B slot Dt"]  # mean text state of the chunk's caption
    chunk_id: Int[Array, "B slot"]
    valid: Bool[Array, "B slot"]
    # Clean ones, where `holds_latents`; zeros behind those of a single latent frame.
    latents: Float[Array, "B slot l h w z"] | None = None


def holds_latents(model: ModelConfig) -> bool:
    """Returns whether the table keeps the latents of chunks: for a retrieval rule, or for the chunk after them."""
    told = model.dit.previous_latent or model.levels.start == "level"
    return told or "latents" in rule_of(model.retrieval.kind).needs


def previous_latent(
    model: ModelConfig, table: SlotTable, chunk_id: Int[Array, ""], shot: Int[Array, ""] | None
) -> PreviousLatent | None:
    """The last latent before chunk `chunk_id`, where the chunk before it is in the table and of the same shot.

    None for models without `dit.previous_latent`, and where chunks do not see those just before them
    (retrieval.num_recent = 0).

    Args:
        shot: id of the first chunk of the chunk's shot; None: 0.
    """
    if not model.dit.previous_latent or not model.retrieval.num_recent:
        return None
    return last_before(model, table, chunk_id, shot)


def last_before(
    model: ModelConfig, table: SlotTable, chunk_id: Int[Array, ""], shot: Int[Array, ""] | None
) -> PreviousLatent:
    """The last latent before chunk `chunk_id` of a table that `holds_latents`, as `previous_latent` has it."""
    assert table.latents is not None
    before = chunk_id - 1
    here = table.valid & (table.chunk_id == before) & (before >= (0 if shot is None else shot))
    slot = here.argmax(-1)
    grid = ChunkGrid.of(model)
    last = jnp.where(before == 0, grid.first_entry_latents, grid.latents_per_chunk) - 1
    latent = table.latents[jnp.arange(len(slot)), slot, last]
    return PreviousLatent(latent[:, None], here.any(-1)[:, None])


def init_slot_table(model: ModelConfig, batch: int) -> SlotTable:
    """An empty table."""
    slots, latents = (batch, model.memory.slots), None
    if holds_latents(model):
        grid = ChunkGrid.of(model)
        frames = (grid.latents_per_chunk, *grid.latent_size, model.dit.in_channels)
        latents = jnp.zeros((*slots, *frames), jnp.float32)
    return SlotTable(
        embedding=jnp.zeros((*slots, model.text.dim), jnp.float32),
        chunk_id=jnp.full(slots, -1, jnp.int32),
        valid=jnp.zeros(slots, bool),
        latents=latents,
    )


def insert(
    table: SlotTable,
    embedding: Float[Array, "B Dt"],
    chunk_id: Int[Array, ""],
    memory: MemoryConfig,
    num_recent: int,
    latents: Float[Array, "B k h w z"] | None = None,
) -> tuple[SlotTable, Int[Array, "B"]]:
    """The table with chunk `chunk_id` in it, and the slot it gets.

    The slot is, in this order: slot 0 for id 0 when `memory.anchor`; the slot that holds this id
    already; the first free one; the one `memory.evict` gives up, `oldest` the lowest id,
    `redundant` the entry whose caption is most like that of another entry (of a pair the older).
    The anchor and the ids from `chunk_id - num_recent` on are never evicted.  A chunk that this
    leaves no slot for (older than all that is kept) is not entered; its slot is their number.

    Args:
      latents: of the chunk, at most as many frames as a slot has; needed where the table holds them.

    Raises:
      UserError: unknown `memory.evict`.  ValueError: `latents` are missing.
    """
    slot = _choose_slot(table, embedding, chunk_id, memory, num_recent)
    return set_row(table, slot, embedding, chunk_id, latents), slot


def set_row(
    table: SlotTable,
    slot: Int[Array, "B"],
    embedding: Float[Array, "B Dt"],
    chunk_id: Int[Array, ""],
    latents: Float[Array, "B k h w z"] | None = None,
) -> SlotTable:
    """The table with chunk `chunk_id` in `slot`; a slot that there is not leaves it as it is.

    Raises:
      ValueError: `latents` are missing.
    """
    rows = jnp.arange(slot.shape[0])
    set_rows = lambda field, value: field.at[rows, slot].set(value, mode="drop")
    return SlotTable(
        embedding=set_rows(table.embedding, embedding.astype(jnp.float32)),
        chunk_id=set_rows(table.chunk_id, jnp.asarray(chunk_id, jnp.int32)),
        valid=set_rows(table.valid, True),
        latents=None if table.latents is None else set_rows(table.latents, _padded(table, latents)),
    )


def _padded(
    table: SlotTable, latents: Float[Array, "B k h w z"] | None
) -> Float[Array, "B l h w z"]:
    """Latents with as many frames as a slot has, zeros after them."""
    if table.latents is None or latents is None:
        raise ValueError("the retrieval rule needs the latents of what is entered")
    missing = table.latents.shape[2] - latents.shape[1]
    return jnp.pad(latents, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0))).astype(jnp.float32)


def _choose_slot(
    table: SlotTable,
    embedding: Float[Array, "B Dt"],
    chunk_id: Int[Array, ""],
    memory: MemoryConfig,
    num_recent: int,
) -> Int[Array, "B"]:
    """Slot to write in each row; the number of slots, which a scatter drops, if there is none."""
    slots = table.valid.shape[-1]
    non_anchor = jnp.arange(slots) >= int(memory.anchor)
    same = non_anchor & table.valid & (table.chunk_id == chunk_id)
    free = non_anchor & ~table.valid
    old = non_anchor & table.valid & (table.chunk_id < chunk_id - num_recent)
    if memory.evict == "redundant":
        candidates = non_anchor & table.valid
        redundancy = _redundancy(table.embedding, embedding, candidates)
        most = jnp.where(old, redundancy, -jnp.inf).max(-1, keepdims=True)
        old &= redundancy == most
    elif memory.evict != "oldest":
        raise UserError(f"memory.evict is {memory.evict!r}; it can be {', '.join(EVICT)}")
    age = jnp.where(old, table.chunk_id, jnp.iinfo(jnp.int32).max)
    slot = jnp.select(
        [same.any(-1), free.any(-1), old.any(-1)],
        [same.argmax(-1), free.argmax(-1), age.argmin(-1)],
        slots,
    )
    if memory.anchor:
        slot = jnp.where(chunk_id == 0, 0, slot)
    return slot.astype(jnp.int32)


def _redundancy(
    stored: Float[Array, "B slot Dt"], new: Float[Array, "B Dt"], candidates: Bool[Array, "B slot"]
) -> Float[Array, "B slot"]:
    """Largest cosine of each entry's caption to that of any of the `candidates` and of the new entry.

    The anchor is not among the candidates: it has chunk 1's caption, but one frame is not a chunk.
    """
    embeddings = jnp.concatenate([stored, new[:, None]], axis=1)
    similarity = cosine(stored[:, :, None], embeddings[:, None])
    slots = stored.shape[1]
    compared = jnp.pad(candidates, ((0, 0), (0, 1)), constant_values=True)[:, None]
    compared = compared & ~jnp.eye(slots, slots + 1, dtype=bool)
    return jnp.where(compared, similarity, -jnp.inf).max(-1)
