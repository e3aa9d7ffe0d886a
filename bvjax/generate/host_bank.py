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
from bvjax.generate import steps
from bvjax.generate.steps import Built, ChunkInput, ChunkReport, Latents, State
from bvjax.memory import bank as kv_bank
from bvjax.memory.bank import Entry, KVBank
from bvjax.memory.book import Book, enter, init_book
from bvjax.memory.retrieval import Active, Selection
from bvjax.memory.storage import storage_dtype
from bvjax.sharding import Layout

PINNED = "pinned_host"
Chunks = Iterable[tuple[ChunkInput, ...]]

_build = jax.jit(steps.build, static_argnames=("model", "layout"))


@dataclasses.dataclass(frozen=True)
class Visit:
    """What the memory does for one chunk."""

    seen: Selection  # when it is denoised
    met: Selection  # when it is built: differs where the chunk brought its anchor
    slot: int  # where it is written; the number of slots: nowhere


def plan(model: ModelConfig, chunks: Chunks) -> tuple[dict[int, Visit], Book]:
    """All visits by chunk id, and the book after them.

    Args:
      chunks: for each the inputs of what is written when it is done, itself the last, in order.
    """
    book, visits = init_book(model, 1), {}
    for group in filter(None, chunks):
        seen = _choose(model, book, group[-1])
        for given in group:
            met = seen if len(group) == 1 else _choose(model, book, given)
            if met.index.shape[-1]:
                book, slot = _enter(model, book, given.embedding, given.chunk_id)
            else:  # no chunk ever looks back
                slot = np.full(1, model.memory.slots)
            visits[int(given.chunk_id)] = (seen, met, slot)
    visits, book = jax.device_get((visits, book))
    return {i: Visit(seen, met, int(slot[0])) for i, (seen, met, slot) in visits.items()}, book


@functools.partial(jax.jit, static_argnames="model")
def _choose(model, book, given):
    """`steps.choose`, with the index and the scores of the entries of an `Active`."""
    selection = steps.choose(model, book, given)
    order = jnp.arange(selection.index.shape[-1], dtype=jnp.int32)
    return selection.replace(
        index=jnp.where(selection.valid, order, 0),
        scores=jnp.take_along_axis(selection.scores, selection.index, axis=-1),
    )


@functools.partial(jax.jit, static_argnames="model")
def _enter(model, book, embedding, chunk_id):
    return enter(book, embedding[None], chunk_id, model.memory, model.retrieval.recent)


class HostBank:
    """Entries by chunk id.  On the device are those that the chunk at work and the next one see.

    A backend without pinned host memory keeps them as NumPy arrays; each write is then waited for.
    """

    def __init__(self, params: Any, model: ModelConfig, layout: Layout, chunks: Chunks):
        """`chunks` as `plan` wants them; `params`, of the DiT, lie where the work is done."""
        self._params, self._model, self._layout = params, model, layout
        self._visits, self._book = plan(model, chunks)
        ids = list(self._visits)
        self._next = dict(zip(ids, ids[1:], strict=False))
        shapes = kv_bank.entry_shapes(model, 1, storage_dtype(model))
        both = lambda entry: Built(entry, entry if model.cfg.two_banks else None)
        device, places = _places(shapes, layout, params)
        self._near_place, self._far_place = both(places), None
        if PINNED in {memory.kind for memory in device.addressable_memories()}:
            to_host = lambda place: place.with_memory_kind(PINNED)
            self._far_place = jax.tree.map(to_host, self._near_place)
        else:
            logging.warning("%s has no %s memory: each write is waited for", device, PINNED)
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), both(shapes))
        self._empty = jax.device_put(zeros, self._near_place)
        self._far: dict[int, Built] = {}
        self._near: dict[int, Built] = {}
        self._owner: dict[int, int] = {}  # slot -> chunk id
        self._before: Any = None  # part of what was built last

    def seen(self, chunk_id: int) -> State:
        """What a chunk sees when it is denoised."""
        return self._state(self._visits[chunk_id].seen)

    def fetch(self, chunk_id: int) -> None:
        """Begins to send to the device what the chunk will see and what is written already."""
        for i in _ids(self._visits[chunk_id].seen):
            if i in self._far:
                self._entry(i)

    def write(self, given: ChunkInput, latents: Latents) -> ChunkReport:
        """Builds the entry of a chunk and writes it.

        Waits for the entry before this one, so that the host is at most a chunk ahead of the
        device: what it asks for takes memory there from then on.
        """
        chunk_id = int(given.chunk_id)
        state = self._state(self._visits[chunk_id].met, self._model.build.context == "with")
        built, report = _build(
            self._params, self._model, state, given, latents, layout=self._layout
        )
        if built is not None:
            self._keep(chunk_id, built)
            jax.block_until_ready(self._before)
            self._before = built.entry.lengths
        return report

    def state(self) -> State:
        """All entries as whole banks of NumPy arrays."""
        slots = [
            jax.device_get(self._far[self._owner[slot]] if slot in self._owner else self._empty)
            for slot in range(self._model.memory.slots)
        ]
        rows = jax.tree.map(lambda *entries: np.stack(entries, axis=2), *slots)
        whole = lambda entry: KVBank(**vars(entry), **vars(self._book))
        null_bank = None if rows.null_entry is None else whole(rows.null_entry)
        return State(bank=whole(rows.entry), null_bank=null_bank)

    def _keep(self, chunk_id: int, built: Built) -> None:
        slot = self._visits[chunk_id].slot
        if slot < self._model.memory.slots:
            built = jax.device_put(built, self._near_place)
            self._far.pop(self._owner.get(slot), None)
            self._owner[slot], self._near[chunk_id] = chunk_id, built
            self._far[chunk_id] = (
                jax.tree.map(np.asarray, built)
                if self._far_place is None
                else jax.device_put(built, self._far_place)
            )
        following = self._visits.get(self._next.get(chunk_id))
        wanted = _ids(following.seen) | _ids(following.met) if following else set()
        self._near = {i: entry for i, entry in self._near.items() if i in wanted}

    def _entry(self, chunk_id: int) -> Built:
        """On the device, or on its way there."""
        if chunk_id not in self._near:
            self._near[chunk_id] = jax.device_put(self._far[chunk_id], self._near_place)
        return self._near[chunk_id]

    def _state(self, selection: Selection, rows: bool = True) -> State:
        each = zip(selection.chunk_id[0], selection.valid[0], strict=True)
        found = [self._entry(int(i)) if rows and valid else self._empty for i, valid in each]
        active = lambda entries: Active(entries=tuple(entries), selection=selection)
        null_bank = None
        if self._model.cfg.two_banks:
            null_bank = active(built.null_entry for built in found)
        return State(bank=active(built.entry for built in found), null_bank=null_bank)


def _ids(selection: Selection) -> set[int]:
    return {int(i) for i in selection.chunk_id[selection.valid]}


def _places(shapes: Entry, layout: Layout, params: Any) -> tuple[jax.Device, Entry]:
    """A device that does the work, and where each field of an entry lies among all of them."""
    if layout.mesh is None:
        leaf = jax.tree.leaves(params)[0]
        device = min(leaf.devices(), key=lambda d: d.id) if isinstance(leaf, jax.Array) else None
        device = jax.devices()[0] if device is None else device
        where = lambda axes: SingleDeviceSharding(device)
    else:
        device = layout.mesh.local_mesh.devices.flat[0]
        where = lambda axes: layout.sharding(*axes)
    kind = device.default_memory().kind
    places = {n: where(cut).with_memory_kind(kind) for n, cut in kv_bank.axes(shapes).items()}
    return device, Entry(**places)
