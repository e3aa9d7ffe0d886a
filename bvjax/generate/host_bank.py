"""The bank of a stream in pinned host memory, with what a chunk sees of it on the device.

Which entries a chunk sees is known before the video begins: it depends on captions and ids alone.
So while the device denoises a chunk, those entries that the next one will see are sent to it, but
for the newest, which is still to be built there; nothing waits for anything but the data itself.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import SingleDeviceSharding

from bvjax.config import ModelConfig
from bvjax.denoiser.context import select_entries
from bvjax.denoiser.types import ChunkInput, ChunkReport, EncodedChunk, Latents, MemoryState
from bvjax.generate import steps
from bvjax.memory import bank as kv_bank
from bvjax.memory.bank import Entry, KVBank
from bvjax.memory.retrieval import GatheredEntries, Selection
from bvjax.memory.slot_table import SlotTable, init_slot_table, insert
from bvjax.memory.storage import storage_dtype
from bvjax.sharding import Layout

PINNED = "pinned_host"
Chunks = Iterable[tuple[ChunkInput, ...]]


@dataclasses.dataclass(frozen=True)
class Visit:
    """Reads and the write of one chunk."""

    seen: Selection  # when it is denoised
    seen_at_encoding: Selection  # when it is encoded: differs where the chunk brought its anchor
    slot: int  # where it is written; the number of slots: nowhere


def plan(model: ModelConfig, chunks: Chunks) -> tuple[dict[int, Visit], SlotTable]:
    """All visits by chunk id, and the slot table after them.

    Args:
      chunks: for each the inputs of what is written when it is done, itself the last, in order.
    """
    table, visits = init_slot_table(model, 1), {}
    for group in filter(None, chunks):
        seen = _choose(model, table, group[-1])
        for inputs in group:
            seen_at_encoding = seen if len(group) == 1 else _choose(model, table, inputs)
            if seen_at_encoding.index.shape[-1]:
                table, slot = _enter(model, table, inputs.embedding, inputs.chunk_id)
            else:  # no chunk ever looks back
                slot = np.full(1, model.memory.slots)
            visits[int(inputs.chunk_id)] = (seen, seen_at_encoding, slot)
    visits, table = jax.device_get((visits, table))
    return {
        i: Visit(seen, seen_at_encoding, int(slot[0]))
        for i, (seen, seen_at_encoding, slot) in visits.items()
    }, table


@functools.partial(jax.jit, static_argnames="model")
def _choose(model, table, inputs):
    """`select_entries`, with the index and the scores of the entries of `GatheredEntries`."""
    selection = select_entries(model, table, inputs)
    order = jnp.arange(selection.index.shape[-1], dtype=jnp.int32)
    return selection.replace(
        index=jnp.where(selection.valid, order, 0),
        scores=jnp.take_along_axis(selection.scores, selection.index, axis=-1),
    )


@functools.partial(jax.jit, static_argnames="model")
def _enter(model, table, embedding, chunk_id):
    return insert(table, embedding[None], chunk_id, model.memory, model.retrieval.span)


class HostBank:
    """Entries by chunk id.  On the device are those that the chunk at work and the next one see.

    A backend without pinned host memory keeps them as NumPy arrays; each write is then waited for.
    """

    def __init__(self, params: Any, model: ModelConfig, layout: Layout, chunks: Chunks):
        """`chunks` as `plan` takes them; `params`, of the DiT, are placed on the devices that compute.

        They may be others for each chunk.
        """
        self.params, self._model, self._layout = params, model, layout
        self._visits, self._table = plan(model, chunks)
        ids = list(self._visits)
        self._next = dict(zip(ids, ids[1:], strict=False))
        shapes = kv_bank.entry_shapes(model, 1, storage_dtype(model))
        with_null = lambda entry: EncodedChunk(entry, entry if model.guidance.two_banks else None)
        device, shardings = _entry_shardings(shapes, layout, params)
        self._device_sharding, self._host_sharding = with_null(shardings), None
        if PINNED in {memory.kind for memory in device.addressable_memories()}:
            to_host = lambda sharding: sharding.with_memory_kind(PINNED)
            self._host_sharding = jax.tree.map(to_host, self._device_sharding)
        else:
            logging.warning("%s has no %s memory: each write is waited for", device, PINNED)
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), with_null(shapes))
        self._empty = jax.device_put(zeros, self._device_sharding)
        self._far: dict[int, EncodedChunk] = {}
        self._near: dict[int, EncodedChunk] = {}
        self._owner: dict[int, int] = {}  # slot -> chunk id
        self._last_lengths: Any = None  # part of what was encoded last

    def seen(self, chunk_id: int) -> MemoryState:
        """The entries that a chunk sees when it is denoised."""
        return self._state(self._visits[chunk_id].seen)

    def fetch(self, chunk_id: int) -> None:
        """Begins to send to the device what the chunk will see and what is written already."""
        for i in _ids(self._visits[chunk_id].seen):
            if i in self._far:
                self._entry(i)

    def write(self, inputs: ChunkInput, latents: Latents) -> ChunkReport:
        """Encodes a chunk and writes its entry.

        Waits for the entry before this one, so that the host is at most a chunk ahead of the
        device: what it asks for takes memory there from then on.
        """
        chunk_id = int(inputs.chunk_id)
        state = self._state(
            self._visits[chunk_id].seen_at_encoding, self._model.build.context == "with"
        )
        encoded, report = steps.encode_program(
            self.params, self._model, state, inputs, latents, layout=self._layout
        )
        if encoded is not None:
            self._keep(chunk_id, encoded)
            jax.block_until_ready(self._last_lengths)
            self._last_lengths = encoded.entry.lengths
        return report

    def state(self) -> MemoryState:
        """All entries as whole banks of NumPy arrays."""
        slots = [
            jax.device_get(self._far[self._owner[slot]] if slot in self._owner else self._empty)
            for slot in range(self._model.memory.slots)
        ]
        rows = jax.tree.map(lambda *entries: np.stack(entries, axis=2), *slots)
        whole = lambda entry: KVBank(**vars(entry), **vars(self._table))
        null_bank = None if rows.null_entry is None else whole(rows.null_entry)
        return MemoryState(bank=whole(rows.entry), null_bank=null_bank)

    def _keep(self, chunk_id: int, encoded: EncodedChunk) -> None:
        slot = self._visits[chunk_id].slot
        if slot < self._model.memory.slots:
            encoded = jax.device_put(encoded, self._device_sharding)
            self._far.pop(self._owner.get(slot), None)
            self._owner[slot], self._near[chunk_id] = chunk_id, encoded
            self._far[chunk_id] = (
                jax.tree.map(np.asarray, encoded)
                if self._host_sharding is None
                else jax.device_put(encoded, self._host_sharding)
            )
        following = self._visits.get(self._next.get(chunk_id))
        needed = _ids(following.seen) | _ids(following.seen_at_encoding) if following else set()
        self._near = {i: entry for i, entry in self._near.items() if i in needed}

    def _entry(self, chunk_id: int) -> EncodedChunk:
        """The entry of a chunk, on the device or on its way there."""
        if chunk_id not in self._near:
            self._near[chunk_id] = jax.device_put(self._far[chunk_id], self._device_sharding)
        return self._near[chunk_id]

    def _state(self, selection: Selection, rows: bool = True) -> MemoryState:
        each = zip(selection.chunk_id[0], selection.valid[0], strict=True)
        chunks = [self._entry(int(i)) if rows and valid else self._empty for i, valid in each]
        gathered = lambda entries: GatheredEntries(entries=tuple(entries), selection=selection)
        null_bank = None
        if self._model.guidance.two_banks:
            null_bank = gathered(chunk.null_entry for chunk in chunks)
        bank = gathered(chunk.entry for chunk in chunks)
        return MemoryState(bank=bank, null_bank=null_bank)


def _ids(selection: Selection) -> set[int]:
    return {int(i) for i in selection.chunk_id[selection.valid]}


def _entry_shardings(shapes: Entry, layout: Layout, params: Any) -> tuple[jax.Device, Entry]:
    """One of the devices that compute, and the sharding of each field of an entry over all of them."""
    if layout.mesh is None:
        leaf = jax.tree.leaves(params)[0]
        device = min(leaf.devices(), key=lambda d: d.id) if isinstance(leaf, jax.Array) else None
        device = jax.devices()[0] if device is None else device
        sharding_of = lambda axes: SingleDeviceSharding(device)
    else:
        device = layout.mesh.local_mesh.devices.flat[0]
        sharding_of = lambda axes: layout.sharding(*axes)
    kind = device.default_memory().kind
    shardings = {
        n: sharding_of(axes).with_memory_kind(kind) for n, axes in kv_bank.axes(shapes).items()
    }
    return device, Entry(**shardings)
