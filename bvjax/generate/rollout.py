"""A whole video: `rollout` scans the chunks in one program, `stream` takes the steps from the host.

Chunk ids and lengths are traced, so `stream` compiles the frame-0 step once and the chunk step once
for a story of any length; `rollout` compiles once per number of chunks.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

from bvjax import policies
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.denoise import denoise_anchor
from bvjax.denoiser.encode import write_chunk
from bvjax.denoiser.types import (
    ChunkInput,
    ChunkReport,
    Latents,
    MemoryState,
    empty_report,
    init_state,
)
from bvjax.denoiser.watch import Watch
from bvjax.denoiser.window import plain_scales
from bvjax.errors import UserError
from bvjax.generate import steps
from bvjax.generate.conditions import Conditions
from bvjax.generate.decoding import overlap_prefix
from bvjax.generate.host_bank import HostBank
from bvjax.generate.preparation import Preparation, with_ids
from bvjax.generate.script import Telling, write_script
from bvjax.generate.windows import Windows, first_needed
from bvjax.sharding import ONE_DEVICE, Layout


@struct.dataclass
class Rollout:
    """All latents of a video (float32) and what the memory did, stacked over chunks."""

    anchor: Float[Array, "1 h w z"] | None  # latent 0, with chunk.first="separate"
    latents: Float[Array, "n l h w z"]
    report: ChunkReport


@dataclasses.dataclass(frozen=True)
class Piece:
    """One step of `stream`: latents as they are stored, [1 or L or P + L, h, w, z].

    Latents and report of a fresh piece may still be in the making: who reads them waits.
    """

    chunk_id: int  # 0 is the anchor, or the first chunk with chunk.first="joined"
    latents: Float[Array, "l h w z"]
    report: ChunkReport | None  # None for an anchor that is not in the bank
    fresh: bool  # False when the latents were given by `done`


@functools.partial(jax.jit, static_argnames=("model", "layout"))
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
        UserError: chunk.first="overlap", whose windows begin with the end of the last,
            memory.offload="host", a policy that is not one chunk after the other, and a prompt.change that is not
            hard.
    """
    if model.memory.offload == "host":
        raise UserError(
            "memory.offload='host' moves entries between chunks, which one scan does not do; use "
            "stream, or memory.offload='none'"
        )
    if model.chunk.first == "overlap":
        raise UserError(
            "chunk.first='overlap' hands the end of each window to the next, which one scan does not "
            "do; use stream, or chunk.first='separate'"
        )
    if not policies.policy_of(model.policy.name).scans:
        raise UserError(
            f"policy {model.policy.name} does more than make one chunk after the other, which one scan "
            "does not do; use stream"
        )
    if model.prompt.change != "hard":
        raise UserError(
            f"prompt.change={model.prompt.change!r} depends on which captions are alike, which one scan does not know; "
            "use stream, or prompt.change='hard'"
        )
    state, anchor = init_state(model, layout), None
    ids = jnp.asarray(ChunkGrid.of(model, conditions.num_chunks).chunk_ids, jnp.int32)
    inputs = ChunkInput(
        chunk_id=ids,
        text=conditions.text,
        embedding=conditions.embedding,
        null_text=jnp.broadcast_to(conditions.null_text, conditions.text.shape),
        key=jnp.broadcast_to(key, ids.shape),
        oracle=oracle,
    )

    def step(state: MemoryState, inputs: ChunkInput, prefix: Latents | None = None):
        state, latents, report = steps.chunk_step(params, model, state, inputs, prefix, layout)
        return state, (latents, report)

    if model.chunk.first == "separate":
        first = jax.tree.map(lambda x: x[0], inputs).replace(chunk_id=jnp.int32(0))
        anchor = image_latent
        if anchor is None:
            anchor = denoise_anchor(params, model, first, layout)
        if model.memory.anchor:
            state, _ = write_chunk(params, model, state, first, anchor, layout)
    elif image_latent is not None:  # the first chunk begins with the image
        head, tail = (jax.tree.map(lambda x, s=s: x[s], inputs) for s in (0, slice(1, None)))
        state, first = step(state, head, image_latent)
        _, rest = jax.lax.scan(step, state, tail)
        latents, report = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
        return Rollout(anchor=None, latents=latents, report=report)
    _, (latents, report) = jax.lax.scan(step, state, inputs)
    return Rollout(anchor=anchor, latents=latents, report=report)


def stream(
    params: Any | Callable[[int], Any],
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
    given: int = 0,
    watch: Watch | None = None,
    cuts: Collection[int] = (),
    revised: Callable[[], Telling | None] | None = None,
) -> Iterator[Piece]:
    """Generates a video chunk by chunk; the same latents as `rollout`, bit-exact on one CPU.

    Pieces come in the order in which the policy finishes them.

    Nothing here waits for the device: a piece is yielded when its work is asked for.  The next
    chunk is asked for when the next piece is, so whoever takes a piece, asks for the next one and
    then reads the first keeps the device busy.

    Args:
        params: of the DiT, or a function that gives those for the chunk with an id: it is made, and its entry
            encoded, with them. A window of several chunks has those of its first.
        done: latents that exist already, by chunk id: they are put into the bank, not made again,
            which resumes exactly where another stream stopped.
        vae_params: chunk.history="pixels" of overlapping windows re-encodes their ends with it.
        layout: the devices that share the work; `params` are placed as it says.
        rerolls: (chunk id, seed): the chunks from that id on have this seed instead; ids rise.
        given: so many of the first chunks in `done` were never noise: a video gave them.
        watch: is told of each step of chunks that are made one after the other.
        cuts: ids of chunks that begin a shot: they and those after them do not see the chunks before it as recent
            ones, only where retrieval chooses them.
        revised: is asked before each chunk is begun, of models for which `script.is_revisable`: a story that is
            another from that chunk on, longer or shorter, or None.

    Raises:
        UserError: windows of several chunks, with several devices or a first chunk that begins with
            an image.
    """
    done, whole = {} if done is None else done, model
    script = write_script(model, Telling(conditions, rerolls, cuts), key, oracle)
    turns, chunks = script.turns, script.chunks
    decay = model.policy.decay
    row = policies.policy_of(model.policy.name)
    if row.windows and model.chunk.first != "separate" and image_latent is not None:
        raise UserError(
            f"policy {model.policy.name} makes whole chunks, and with chunk.first={model.chunk.first!r} an "
            "image is the beginning of one; use chunk.first='separate'"
        )
    policies.check_layout(model, 1 if layout.mesh is None else layout.mesh.size)
    model = policies.without(model)
    first, grid = model.chunk.first, script.grid
    params_of = params if callable(params) else lambda _: params
    params = params_of(grid.piece_ids[0])
    bank, last_window, anchor = _open(params, model, layout, chunks), None, None
    if first == "separate":
        anchor = done.get(0, image_latent)
        if anchor is None:
            inputs = steps.chunk_input(script.conditions, script.keys[0], oracle, 0, 0)
            anchor = steps.anchor_program(params, model, inputs, layout=layout, watch=watch)
        yield Piece(0, anchor, _write(model, bank, chunks[0], anchor), fresh=0 not in done)

    if row.windows:
        scales = plain_scales(model) if row.scales is None else row.scales(model)
        clean = list(grid.chunk_ids)[:given]
        turns = [turn.given(clean, model.sampler.steps) for turn in turns]
        inputs_of = lambda i: chunks[i][-1]
        windows = Windows(params, model, script.conditions, turns, scales, inputs_of)
        yield from _by_windows(
            model, windows, turns, bank, inputs_of, script.conditions, done, anchor
        )
        return
    ready = Preparation(model, bank, script, oracle, vae_params, layout, decay)
    if anchor is not None:
        ready.keep(0, anchor)
    for number in itertools.count():
        if revised is not None and (telling := revised()) is not None:
            script = ready.script = write_script(whole, telling, key, oracle)
            chunks, grid = script.chunks, script.grid
        if number >= len(script.turns):
            return
        turn = script.turns[number]
        (chunk_id,) = turn.emits
        bank.params = params_of(chunk_id)
        ready.before(turn)
        if turn.origin:
            chunks[chunk_id] = (ready.inputs(chunk_id, grid.row_of(chunk_id), turn.origin),)
        latents = done.get(chunk_id)
        if latents is None:
            prefix = image_latent if chunk_id == grid.first_id and first != "separate" else None
            if last_window is not None:
                prefix = overlap_prefix(vae_params, model, last_window, layout)
            inputs, seen = chunks[chunk_id][-1], bank.seen(chunk_id)
            latents = steps.denoise_program(
                bank.params, model, seen, inputs, prefix, layout=layout, watch=watch
            )
        if chunk_id + 1 in chunks and chunk_id + 1 not in done:
            bank.fetch(chunk_id + 1)
        report = _write(model, bank, chunks[chunk_id], latents)
        ready.keep(chunk_id, latents)
        last_window = latents if first == "overlap" else None
        if report is not None:
            report = with_ids(report, turn.origin, model.memory.anchor)
        yield Piece(chunk_id, latents, report, fresh=chunk_id not in done)


def _by_windows(
    model: ModelConfig,
    windows: Windows,
    turns: Sequence[policies.Round],
    bank: _DeviceBank | HostBank,
    inputs_of: Callable[[int], ChunkInput],
    conditions: Conditions,
    done: Mapping[int, Latents],
    anchor: Latents | None,
) -> Iterator[Piece]:
    """The pieces of a video that is made in windows, after its anchor."""
    grid, steps_of_sampler = ChunkGrid.of(model, conditions.num_chunks), model.sampler.steps
    finished: dict[int, Latents] = {} if anchor is None else {0: anchor}
    chunks = [place.chunk for turn in turns for place in turn.places]
    finished |= {i: done[i] for i in chunks if i in done}
    owner = {f: i for i in (*finished, *chunks) for f in range(*grid.latent_range(i))}

    def frame(index: int) -> np.ndarray:
        chunk_id = owner[index]
        return np.asarray(finished[chunk_id])[index - grid.latent_range(chunk_id)[0]]

    first = first_needed(turns, steps_of_sampler, done)
    for number, turn in enumerate(turns):
        moves = any(place.start < steps_of_sampler for place in turn.places)
        made: dict[int, Latents] = {}
        if number >= first and moves:
            made = windows.make(turn, bank.state(), finished, frame)
        for i in turn.emits:
            finished[i] = done[i] if i in done else made[i]
        reports = {}
        for commit in turn.commits:
            inputs = inputs_of(commit.chunk)
            text = (
                conditions.null_text[0] if commit.caption < 0 else conditions.text[commit.caption]
            )
            inputs = dataclasses.replace(inputs, text=jnp.asarray(text))
            reports[commit.chunk] = bank.write(inputs, finished[commit.chunk])
        for i in turn.emits:
            none = jnp.zeros(model.memory.anchor + model.retrieval.num_recent, jnp.int32)
            report = reports.get(i) or empty_report(none - 1, none > 0, model.dit.num_layers)
            yield Piece(i, finished[i], report, fresh=i not in done)


def rebuild_bank(
    params: Any,
    model: ModelConfig,
    conditions: Conditions,
    key: Key[Array, ""],
    latents: Mapping[int, Latents],
    oracle: Float[np.ndarray, "n ids"] | None = None,
    layout: Layout = ONE_DEVICE,
    vae_params: Any = None,
    cuts: Collection[int] = (),
) -> MemoryState:
    """The state after the chunks in `latents` (by id, as `stream` yields them), bit-exact.

    With build.context="with" an entry depends on those before it: ids run from the first on.
    """
    script = write_script(model, Telling(conditions, cuts=cuts), key, oracle)
    by_chunk, decay = {turn.emits[0]: turn for turn in script.turns}, model.policy.decay
    model = policies.without(model)
    chunks = {i: script.chunks[i] for i in sorted(latents)}
    bank = _open(params, model, layout, chunks)
    ready = Preparation(model, bank, script, oracle, vae_params, layout, decay)
    for chunk_id, entries in chunks.items():
        if turn := by_chunk.get(chunk_id):
            ready.before(turn)
            if turn.origin:
                row = ChunkGrid.of(model).row_of(chunk_id)
                entries = (ready.inputs(chunk_id, row, turn.origin),)
        _write(model, bank, entries, latents[chunk_id])
        ready.keep(chunk_id, latents[chunk_id])
    return bank.state()


class _DeviceBank:
    """The whole state on the device, one write after the other in the same memory.

    `params`, which entries are encoded with, may be others for each chunk.
    """

    def __init__(self, params: Any, model: ModelConfig, layout: Layout):
        self.params, self._model, self._layout = params, model, layout
        self._state = init_state(model, layout)

    def seen(self, chunk_id: int) -> MemoryState:
        return self._state

    def fetch(self, chunk_id: int) -> None:
        pass

    def write(self, inputs: ChunkInput, latents: Latents) -> ChunkReport:
        self._state, report = steps.write_program(
            self.params, self._model, self._state, inputs, latents, layout=self._layout
        )
        return report

    def change(self, state: MemoryState | None) -> None:
        self._state = init_state(self._model, self._layout) if state is None else state

    def state(self) -> MemoryState:
        return self._state


def _open(
    params: Any, model: ModelConfig, layout: Layout, chunks: dict[int, tuple[ChunkInput, ...]]
) -> _DeviceBank | HostBank:
    """An empty bank for `chunks`, where `memory.offload` says."""
    if model.memory.offload == "host":
        return HostBank(params, model, layout, chunks.values())
    return _DeviceBank(params, model, layout)


def _write(
    model: ModelConfig,
    bank: _DeviceBank | HostBank,
    entries: tuple[ChunkInput, ...],
    latents: Latents,
) -> ChunkReport | None:
    """Puts a chunk into the bank; the anchor that it brings is its first latent."""
    report, own = None, ChunkGrid.of(model).latents_per_chunk
    for inputs in entries:
        part = latents[-own:] if inputs is entries[-1] else latents[:1]
        report = bank.write(inputs, part)
    return report
