"""A whole video: `rollout` scans the chunks in one program, `stream` takes the steps from the host.

Chunk ids and lengths are traced, so `stream` compiles the frame-0 step once and the chunk step once
for a story of any length; `rollout` compiles once per number of chunks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.generate import steps
from bvjax.generate.conditions import Conditions
from bvjax.generate.decoding import overlap_prefix
from bvjax.generate.host_bank import HostBank
from bvjax.generate.steps import ChunkInput, ChunkReport, Latents, State
from bvjax.sharding import ONE_DEVICE, Layout

_STATIC = ("model", "layout")
_anchor_step = jax.jit(steps.anchor_step, static_argnames=_STATIC)
_denoise = jax.jit(steps.denoise, static_argnames=_STATIC)
_commit = jax.jit(steps.commit, static_argnames=_STATIC, donate_argnames="state")


@struct.dataclass
class Rollout:
    """All latents of a video (float32) and what the memory did, stacked over chunks."""

    guidance: Float[Array, "1 h w z"] | None  # latent 0, with chunk.first="separate"
    latents: Float[Array, "n l h w z"]
    report: ChunkReport


@dataclasses.dataclass(frozen=True)
class Piece:
    """One step of `stream`: latents as they are stored, [1 or L or P + L, h, w, z].

    Latents and report of a fresh piece may still be in the making: who reads them waits.
    """

    chunk_id: int  # 0 is the guidance latent, or the first chunk with chunk.first="joined"
    latents: Float[Array, "l h w z"]
    report: ChunkReport | None  # None for a guidance latent that is not in the bank
    fresh: bool  # False when the latents were given by `done`


@functools.partial(jax.jit, static_argnames=_STATIC)
def rollout(
    params: Any,
    model: ModelConfig,
    conditions: Conditions,
    key: Key[Array, ""],
    image_latent: Latents | None = None,
    oracle: Float[Array, "n ids"] | None = None,
    layout: Layout = ONE_DEVICE,
) -> Rollout:
    """Generates a video as one program.

    Args:
        params: of the DiT.
        model: static; `chunk.first` is separate or joined.
        key: the seed, `jax.random.key(seed)`.
        image_latent: [1, h, w, z], the encoded first frame (image-to-video).
        oracle: retrieval.kind="oracle": row c scores every chunk id for the c-th chunk.
        layout: static; the devices that share the work.

    Raises:
        UserError: chunk.first="overlap", whose windows begin with the end of the last, and
            memory.place="host".
    """
    if model.memory.place == "host":
        raise UserError(
            "memory.place='host' moves entries between chunks, which one scan does not do; use "
            "stream, or memory.place='device'"
        )
    if model.chunk.first == "overlap":
        raise UserError(
            "chunk.first='overlap' hands the end of each window to the next, which one scan does not "
            "do; use stream, or chunk.first='separate'"
        )
    state, guidance = steps.init_state(model, layout), None
    ids = jnp.asarray(ChunkGrid.of(model, conditions.num_chunks).chunk_ids, jnp.int32)
    given = ChunkInput(
        chunk_id=ids,
        text=conditions.text,
        embedding=conditions.embedding,
        null_text=jnp.broadcast_to(conditions.null_text, conditions.text.shape),
        key=jnp.broadcast_to(key, ids.shape),
        oracle=oracle,
    )

    def step(state: State, given: ChunkInput, prefix: Latents | None = None):
        state, latents, report = steps.chunk_step(params, model, state, given, prefix, layout)
        return state, (latents, report)

    if model.chunk.first == "separate":
        first = jax.tree.map(lambda x: x[0], given).replace(chunk_id=jnp.int32(0))
        guidance = image_latent
        if guidance is None:
            guidance = steps.anchor_step(params, model, first, layout)
        if model.memory.anchor:
            state, _ = steps.commit(params, model, state, first, guidance, layout)
    elif image_latent is not None:  # the first chunk begins with the image
        head, tail = (jax.tree.map(lambda x, s=s: x[s], given) for s in (0, slice(1, None)))
        state, first = step(state, head, image_latent)
        _, rest = jax.lax.scan(step, state, tail)
        latents, report = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
        return Rollout(guidance=None, latents=latents, report=report)
    _, (latents, report) = jax.lax.scan(step, state, given)
    return Rollout(guidance=guidance, latents=latents, report=report)


def stream(
    params: Any,
    model: ModelConfig,
    conditions: Conditions,
    key: Key[Array, ""],
    *,
    image_latent: Latents | None = None,
    oracle: Float[np.ndarray, "n ids"] | None = None,
    done: Mapping[int, Latents] | None = None,
    vae_params: Any = None,
    layout: Layout = ONE_DEVICE,
    rerolls: Sequence[tuple[int, Key[Array, ""]]] = (),
) -> Iterator[Piece]:
    """Generates a video chunk by chunk; the same latents as `rollout`, to the bit on one CPU.

    Nothing here waits for the device: a piece is yielded when its work is asked for.  The next
    chunk is asked for when the next piece is, so whoever takes a piece, asks for the next one and
    then reads the first keeps the device busy.

    Args:
        done: latents that exist already, by chunk id: they are put into the bank, not made again,
            which resumes exactly where another stream stopped.
        vae_params: chunk.history="pixels" of overlapping windows re-encodes their ends with it.
        layout: the devices that share the work; `params` lie as it says.
        rerolls: (chunk id, seed): the chunks from that id on have this seed instead; ids rise.
    """
    done = {} if done is None else done
    first = model.chunk.first
    grid = ChunkGrid.of(model, conditions.num_chunks)
    keys = dict.fromkeys(grid.piece_ids, key)
    for start, other in rerolls:
        keys |= {i: other for i in keys if i >= start}
    chunks = {i: _written(model, conditions, keys[i], oracle, i) for i in keys}
    bank, before = _open(params, model, layout, chunks), None
    if first == "separate":
        guidance = done.get(0, image_latent)
        if guidance is None:
            given = _given(conditions, keys[0], oracle, 0, 0)
            guidance = _anchor_step(params, model, given, layout=layout)
        yield Piece(0, guidance, _write(model, bank, chunks[0], guidance), fresh=0 not in done)

    for chunk_id in grid.chunk_ids:
        latents = done.get(chunk_id)
        if latents is None:
            prefix = image_latent if chunk_id == grid.first_id and first != "separate" else None
            if before is not None:
                prefix = overlap_prefix(vae_params, model, before, layout)
            given = chunks[chunk_id][-1]
            seen = bank.seen(chunk_id)
            latents = _denoise(params, model, seen, given, prefix, layout=layout)
        if chunk_id + 1 in chunks and chunk_id + 1 not in done:
            bank.fetch(chunk_id + 1)
        report = _write(model, bank, chunks[chunk_id], latents)
        before = latents if first == "overlap" else None
        yield Piece(chunk_id, latents, report, fresh=chunk_id not in done)


def rebuild_bank(
    params: Any,
    model: ModelConfig,
    conditions: Conditions,
    key: Key[Array, ""],
    latents: Mapping[int, Latents],
    oracle: Float[np.ndarray, "n ids"] | None = None,
    layout: Layout = ONE_DEVICE,
) -> State:
    """The state after the chunks in `latents` (by id, as `stream` yields them), equal to the bit.

    With build.context="with" an entry depends on those before it: ids run from the first on.
    """
    chunks = {i: _written(model, conditions, key, oracle, i) for i in sorted(latents)}
    bank = _open(params, model, layout, chunks)
    for chunk_id, given in chunks.items():
        _write(model, bank, given, latents[chunk_id])
    return bank.state()


class _DeviceBank:
    """The whole state on the device, one write after the other in the same memory."""

    def __init__(self, params: Any, model: ModelConfig, layout: Layout):
        self._params, self._model, self._layout = params, model, layout
        self._state = steps.init_state(model, layout)

    def seen(self, chunk_id: int) -> State:
        return self._state

    def fetch(self, chunk_id: int) -> None:
        pass

    def write(self, given: ChunkInput, latents: Latents) -> ChunkReport:
        self._state, report = _commit(
            self._params, self._model, self._state, given, latents, layout=self._layout
        )
        return report

    def state(self) -> State:
        return self._state


def _open(
    params: Any, model: ModelConfig, layout: Layout, chunks: dict[int, tuple[ChunkInput, ...]]
) -> _DeviceBank | HostBank:
    """An empty bank for `chunks`, where `memory.place` says."""
    if model.memory.place == "host":
        return HostBank(params, model, layout, chunks.values())
    return _DeviceBank(params, model, layout)


def _written(
    model: ModelConfig,
    conditions: Conditions,
    key: Key[Array, ""],
    oracle: Float[np.ndarray, "n ids"] | None,
    chunk_id: int,
) -> tuple[ChunkInput, ...]:
    """What goes into the bank when a chunk is done: with overlap, chunk 1 brings the anchor."""
    grid = ChunkGrid.of(model)
    given = _given(conditions, key, oracle, grid.row_of(chunk_id), chunk_id)
    entries = grid.entry_ids(chunk_id, model.memory.anchor)
    return tuple(given.replace(chunk_id=np.int32(i)) for i in entries)


def _write(
    model: ModelConfig,
    bank: _DeviceBank | HostBank,
    written: tuple[ChunkInput, ...],
    latents: Latents,
) -> ChunkReport | None:
    """Puts a chunk into the bank; the anchor that it brings is its first latent."""
    report, own = None, steps.grid_of(model).latents_per_chunk
    for given in written:
        part = latents[-own:] if given is written[-1] else latents[:1]
        report = bank.write(given, part)
    return report


def _given(
    conditions: Conditions,
    key: Key[Array, ""],
    oracle: Float[np.ndarray, "n ids"] | None,
    row: int,
    chunk_id: int,
) -> ChunkInput:
    # Rows are cut on the host: on the device each index would be a program of its own.
    return ChunkInput(
        chunk_id=np.int32(chunk_id),
        text=np.asarray(conditions.text)[row],
        embedding=np.asarray(conditions.embedding)[row],
        null_text=np.asarray(conditions.null_text)[0],
        key=key,
        oracle=None if oracle is None else np.asarray(oracle)[row],
    )
