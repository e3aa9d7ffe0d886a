"""Inputs and outputs of the denoiser, chunk by chunk.

Shape letters, as annotations use them throughout the package (upper case means the same thing):
  b batch    c chunks          m target chunks    e entries of a context    slot slots of a bank
  l latent frames              f frames           h, w rows and columns of latents or pixels
  z latent channels            d a width: of the network, or of text (also dt)
  n tokens   t text tokens     p probes           s rows of a context       cap rows of a slot
  y layers   a heads           k head width

They deviate in a few places: h and w are latent or pixel sizes as the place says, `k` counts
mentions in `losses/text_pretrain.py` and latent frames of one write in the bank, and `S` is the
number of entries a retrieval rule scores.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from bvjax.config import ModelConfig
from bvjax.memory import bank as kv_bank
from bvjax.memory.bank import Entry, KVBank, PendingEntry
from bvjax.memory.retrieval import GatheredEntries, SelectedBank
from bvjax.memory.storage import storage_dtype
from bvjax.sharding import ONE_DEVICE, Layout

Latents = Float[Array, "l h w z"]


@struct.dataclass
class ChunkInput:
    """The inputs of one chunk; `key` is the seed of the video, the same for all chunks."""

    chunk_id: Int[Array, ""]
    text: Float[Array, "t d"]
    embedding: Float[Array, "d"]
    null_text: Float[Array, "t d"]
    key: Key[Array, ""]
    oracle: Float[Array, "ids"] | None = None  # score of each past chunk id, for that kind
    shot: Int[Array, ""] | None = (
        None  # id of the first chunk of its shot; None: 0, there are no cuts
    )


@struct.dataclass
class MemoryState:
    """The memory of a video from chunk to chunk, or the entries of it that one chunk sees (the other two types)."""

    bank: KVBank | GatheredEntries | SelectedBank
    null_bank: KVBank | GatheredEntries | None  # with guidance.bank="two": under the null caption


@struct.dataclass
class EncodedChunk:
    """A finished chunk as it goes into the banks of a `MemoryState`."""

    entry: Entry | PendingEntry
    null_entry: Entry | PendingEntry | None


@struct.dataclass
class ChunkReport:
    """A record of the memory's part in one chunk; E entries [anchor | semantic | recent], Y layers."""

    chunk_id: Int[Array, "e"]  # -1 where there was none
    valid: Bool[Array, "e"]
    score: Float[Array, "e"]  # by which it was ranked: cosine, or what `retrieval.kind` says
    kept: Int[Array, "y"]  # tokens of this chunk that went into the bank
    requested: Int[Array, "y"]  # before the slot's capacity clipped them
    coverage: Float[Array, "y"]
    finite: Bool[Array, ""]  # whether all that goes into the bank is


@functools.partial(jax.jit, static_argnames=("model", "layout"))
def init_state(model: ModelConfig, layout: Layout = ONE_DEVICE) -> MemoryState:
    """The state before the first chunk: empty banks, sharded as `layout` says."""
    empty = lambda: kv_bank.shard(kv_bank.init_bank(model, 1, storage_dtype(model)), layout)
    return MemoryState(bank=empty(), null_bank=empty() if model.guidance.two_banks else None)


def empty_report(chunk_id: Int[Array, "e"], valid: Bool[Array, "e"], layers: int) -> ChunkReport:
    """The report of a chunk that nothing is kept of."""
    share = jnp.zeros(layers, jnp.float32)
    count = share.astype(jnp.int32)
    return ChunkReport(
        chunk_id=chunk_id,
        valid=valid,
        score=jnp.zeros(len(valid), jnp.float32),
        kept=count,
        requested=count,
        coverage=share,
        finite=jnp.ones((), bool),
    )
