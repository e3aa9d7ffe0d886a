"""One chunk, as pure functions: look back, denoise, build the entry, write it (Alg. 1, Eq. 8-10).

`rollout` scans `chunk_step`; `stream` calls its two halves, `denoise` and `commit`, each jitted
once, so that a finished chunk can be put back into the bank (resume, rebuild) by the very program
that put it there first.  One video at a time (batch 1 inside): use `jax.vmap` for several.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.diffusion import diffusion_forcing, flow
from bvjax.diffusion.noise import anchor_noise, initial_noise
from bvjax.diffusion.solvers import solve
from bvjax.memory import bank as kv_bank
from bvjax.memory import retrieval
from bvjax.memory.bank import Entry, Kept, KVBank
from bvjax.memory.book import Book
from bvjax.memory.positions import time_bases
from bvjax.memory.retrieval import Active, Selection
from bvjax.memory.salience import keep_mask, probe_indices
from bvjax.memory.storage import storage_dtype
from bvjax.nets import block_causal
from bvjax.nets.dit import ChunkKV, Context, WanDiT
from bvjax.random import normal, purpose_key
from bvjax.sharding import ONE_DEVICE, Layout

Latents = Float[Array, "l h w z"]


@struct.dataclass
class State:
    """What a video remembers from chunk to chunk, or what of it one chunk sees (`Active`)."""

    bank: KVBank | Active
    null_bank: KVBank | Active | None  # only with cfg.bank="two": the same under the null caption


@struct.dataclass
class Built:
    """A finished chunk as it goes into the banks of a `State`."""

    entry: Entry | Kept
    null_entry: Entry | Kept | None


@struct.dataclass
class ChunkInput:
    """What is particular to one chunk; `key` is the seed of the video, the same for all chunks."""

    chunk_id: Int[Array, ""]
    text: Float[Array, "t d"]
    embedding: Float[Array, "d"]
    null_text: Float[Array, "t d"]
    key: Key[Array, ""]
    oracle: Float[Array, "ids"] | None = None  # score of each past chunk id, for that kind


@struct.dataclass
class ChunkReport:
    """What the memory did for one chunk; E entries [anchor | semantic | recent], Y layers."""

    chunk_id: Int[Array, "e"]  # -1 where there was none
    valid: Bool[Array, "e"]
    score: Float[Array, "e"]  # by which it was ranked: cosine, or what `retrieval.kind` says
    kept: Int[Array, "y"]  # tokens of this chunk that went into the bank
    wanted: Int[Array, "y"]  # before the slot's capacity clipped them
    coverage: Float[Array, "y"]
    finite: Bool[Array, ""]  # whether all that goes into the bank is


def grid_of(model: ModelConfig) -> ChunkGrid:
    """Sizes of one chunk of `model`."""
    return ChunkGrid.of(model)


@functools.partial(jax.jit, static_argnames=("model", "layout"))
def init_state(model: ModelConfig, layout: Layout = ONE_DEVICE) -> State:
    """The state before the first chunk: empty banks, cut as `layout` says."""
    empty = lambda: kv_bank.cut(kv_bank.init_bank(model, 1, storage_dtype(model)), layout)
    return State(bank=empty(), null_bank=empty() if model.cfg.two_banks else None)


def chunk_step(
    params: Any,
    model: ModelConfig,
    state: State,
    given: ChunkInput,
    prefix: Latents | None = None,
    layout: Layout = ONE_DEVICE,
) -> tuple[State, Latents, ChunkReport]:
    """Generates a chunk and writes it to the bank."""
    latents = denoise(params, model, state, given, prefix, layout)
    own = latents[-grid_of(model).latents_per_chunk :]
    state, report = commit(params, model, state, given, own, layout)
    return state, latents, report


def anchor_step(
    params: Any, model: ModelConfig, given: ChunkInput, layout: Layout = ONE_DEVICE
) -> Latents:
    """Generates the guidance latent, [1, h, w, z], from the first caption alone."""
    grid = grid_of(model)
    noise = anchor_noise(given.key, (1, *grid.latent_size, model.dit.in_channels))
    scale, positions = model.cfg.scale, grid.positions(1)
    net = WanDiT(model.dit, model.text.dim, layout.for_tokens(len(positions)))
    velocity = _velocity(net, params, model, given, None, None, positions, scale)
    return solve(model.sampler, velocity, noise, _solver_key(given))[0]


def denoise(
    params: Any,
    model: ModelConfig,
    state: State,
    given: ChunkInput,
    prefix: Latents | None = None,
    layout: Layout = ONE_DEVICE,
) -> Latents:
    """Latents of one chunk from noise, given the bank: sigma 1 -> 0 (Eq. 10).

    Args:
        params: of the DiT.
        prefix: clean latents at the head of the window; they get sigma 0, or what
            `sampler.history_noise` says, and stay as they are.
        layout: static; the devices that share the work, see `bvjax.sharding`.

    Returns:
        float32 [W, h, w, z]: L latents, with chunk.first="overlap" P more in front.
    """
    grid = grid_of(model)
    selection, context, null_context, own_base = _look_back(
        model, state, given, layout, guided=True
    )
    frame = (*grid.latent_size, model.dit.in_channels)
    number = grid.number_of(given.chunk_id)
    noise = initial_noise(model.noise, given.key, number, (grid.latents_per_chunk, *frame))
    if grid.overlap_latents:
        head = anchor_noise(given.key, (grid.overlap_latents, *frame))
        noise = jnp.concatenate([head, noise], axis=1)
    noise = layout.constrain(noise)  # drawn whole by every device
    positions = jnp.asarray(grid.positions(grid.window_latents, -grid.overlap_latents))
    positions = positions.at[:, 0].add(own_base)
    scale = model.cfg.scale
    if model.cfg.memory:
        found = selection.retrieved(model.memory.anchor).any()
        scale = jnp.where(found, jnp.float32(model.cfg.memory), jnp.float32(scale))
    block = model.sampler.causal_block
    net = WanDiT(model.dit, model.text.dim, layout)
    velocity = _velocity(net, params, model, given, context, null_context, positions, scale, block)
    key, history = _solver_key(given), None if prefix is None else prefix[None]
    fixed = 0 if prefix is None else len(prefix)
    if diffusion_forcing.wanted(model.sampler, fixed):
        return diffusion_forcing.solve(model.sampler, velocity, noise, history, key)[0]
    if prefix is None:
        return solve(model.sampler, velocity, noise, key)[0]

    def behind(x, sigma):
        x = jnp.concatenate([history, x], axis=1)
        return velocity(x, jnp.where(jnp.arange(x.shape[1]) < fixed, jnp.float32(0.0), sigma))[
            :, fixed:
        ]

    free = solve(model.sampler, behind, noise[:, fixed:], key)
    return jnp.concatenate([prefix, free[0]])


def commit(
    params: Any,
    model: ModelConfig,
    state: State,
    given: ChunkInput,
    latents: Latents,
    layout: Layout = ONE_DEVICE,
) -> tuple[State, ChunkReport]:
    """Builds the entry of finished latents and writes it to the bank.

    Where no chunk ever looks into the bank, nothing is encoded or written.
    """
    built, report = build(params, model, state, given, latents, layout, layout.mesh is not None)
    if built is None:
        return state, report

    def write(bank: KVBank, made: Kept | Entry) -> KVBank:
        bank = kv_bank.write(
            bank, made, given.embedding[None], given.chunk_id, model.memory,
            model.retrieval.recent, layout.kernels, latents[None],
        )  # fmt: skip
        return kv_bank.cut(bank, layout)

    null_bank = state.null_bank
    if null_bank is not None:
        null_bank = write(null_bank, built.null_entry)
    return State(bank=write(state.bank, built.entry), null_bank=null_bank), report


def build(
    params: Any,
    model: ModelConfig,
    state: State,
    given: ChunkInput,
    latents: Latents,
    layout: Layout = ONE_DEVICE,
    apart: bool = True,
) -> tuple[Built | None, ChunkReport]:
    """Encodes finished latents (Algorithm 2).

    A pure function of (bank, clean latents, caption, seed); with build.context="none" of the bank
    only the report depends.  The clean pass is told sigma = build.label and sees the latents through
    noise of sigma = build.context_noise, both 0 by default.  The null bank keeps the same tokens of
    the same chunks.  None where no chunk ever looks into the bank.  With `apart` (static) the kept
    rows are moved together; without, `bank.write` moves them.
    """
    grid = grid_of(model)
    memory = model.memory
    selection, context, null_context, own_base = _look_back(model, state, given, layout)
    if not selection.index.shape[-1]:
        none, layers = jnp.zeros(0, jnp.float32), jnp.zeros(model.dit.num_layers, jnp.float32)
        kept = layers.astype(jnp.int32)
        return None, ChunkReport(
            chunk_id=selection.chunk_id[0], valid=selection.valid[0], score=none,
            kept=kept, wanted=kept, coverage=layers, finite=jnp.ones((), bool),
        )  # fmt: skip
    if model.build.context == "none":
        context, null_context, own_base = None, None, jnp.int32(0)
    local = grid.positions(len(latents))
    key = purpose_key(given.key, "probes", given.chunk_id)
    probes = probe_indices(model.build, len(local), grid.tokens_per_latent, key)
    positions = jnp.asarray(local).at[:, 0].add(own_base)
    if model.build.context_noise:
        fresh = normal(purpose_key(given.key, "context noise", given.chunk_id), latents.shape)
        latents = flow.interpolate(latents, fresh, model.build.context_noise)
    net = WanDiT(model.dit, model.text.dim, layout.for_tokens(len(local)))
    clean = functools.partial(_clean_pass, net, params, model, latents, positions, probes)
    kv = clean(given.text, context)
    keep, cover = keep_mask(kv.salience, probes[1], memory, memory.capacity)
    whole = jnp.logical_and(memory.anchor, given.chunk_id == 0)
    keep = keep | whole
    dense, dtype = model.retrieval.dense_recent, storage_dtype(model)

    def entry(kv: ChunkKV) -> tuple[Kept | Entry, Bool[Array, ""]]:
        kept = kv_bank.keep_rows(kv, keep, local, memory.capacity, dense, dtype)
        return (kv_bank.gather(kept, layout) if apart else kept), kv_bank.is_finite(kept.rows)

    made, finite = entry(kv)
    finite &= jnp.isfinite(kv.salience).all()
    null_entry = None
    if state.null_bank is not None:
        null_entry, also = entry(clean(given.null_text, null_context))
        finite &= also
    index = selection.index[0]
    report = ChunkReport(
        chunk_id=selection.chunk_id[0],
        valid=selection.valid[0],
        score=jnp.where(selection.valid[0], selection.scores[0][index], 0.0),
        kept=jnp.where(whole, len(local), cover.kept[:, 0, 0]),
        wanted=jnp.where(whole, len(local), cover.wanted[:, 0, 0]),
        coverage=jnp.where(whole, 1.0, cover.coverage[:, 0, 0]),
        finite=finite,
    )
    return Built(entry=made, null_entry=null_entry), report


def choose(model: ModelConfig, book: KVBank | Book, given: ChunkInput) -> Selection:
    """The entries that a chunk sees (Eq. 8, 9)."""
    oracle = None
    if given.oracle is not None:
        known = (book.chunk_id >= 0) & (book.chunk_id < len(given.oracle))
        row = given.oracle[jnp.clip(book.chunk_id, 0, len(given.oracle) - 1)]
        oracle = jnp.where(known, row, -jnp.inf)
    key = purpose_key(given.key, "retrieval", given.chunk_id)
    return retrieval.retrieve(
        book, given.embedding[None], given.chunk_id, model, key=key, oracle=oracle
    )


def _look_back(
    model: ModelConfig,
    state: State,
    given: ChunkInput,
    layout: Layout = ONE_DEVICE,
    guided: bool = False,
) -> tuple[Selection, Context | None, Context | None, Int[Array, ""]]:
    """Selection, context, that of the null branch where it differs, and when the chunk begins.

    There is no context where nothing can be seen: no anchor, no retrieval, no recent entries.
    `guided` is for denoising: with `cfg.memory` the null branch forgets what was retrieved, and
    where the branches are `_paired` the context is that of both.
    """
    bank, grid = state.bank, grid_of(model)
    selection = bank.selection if isinstance(bank, Active) else choose(model, bank, given)
    entry_base, own_base = time_bases(
        model.rope.mode, selection.chunk_id, selection.valid, given.chunk_id,
        latents=grid.latents_per_chunk, first_latents=grid.first_entry_latents,
        recent=model.retrieval.recent, l=model.retrieval.l, anchor=model.memory.anchor,
    )  # fmt: skip
    if not selection.index.shape[-1]:
        return selection, None, None, own_base[0]
    null = None if state.null_bank is None else (state.null_bank, selection)
    if guided and model.cfg.memory:
        null = state.null_bank or bank, selection.forget(model.memory.anchor)
    assemble = functools.partial(
        retrieval.assemble, entry_base=entry_base, theta=model.dit.rope_theta, layout=layout,
        dtype=jnp.dtype(model.dit.dtype),
    )  # fmt: skip
    if guided and _paired(model, layout):
        both = assemble(bank, selection, null=null or (bank, selection))
        return selection, both, None, own_base[0]
    null_context = None if null is None else assemble(*null)
    return selection, assemble(bank, selection), null_context, own_base[0]


def _paired(model: ModelConfig, layout: Layout) -> bool:
    """Are the two branches of guidance a batch of two, cut along the mesh axis `data`."""
    return model.cfg.guided and layout.size("data") == 2


def _velocity(
    net: WanDiT,
    params: Any,
    model: ModelConfig,
    given: ChunkInput,
    context: Context | None,
    null_context: Context | None,
    positions: Int[Array, "n 3"],
    scale: float | Float[Array, ""],
    block: int = 1,
):
    """The velocity of a window at one sigma or one a frame, guided by `scale`, as the solvers want it.

    With `block` above 1 the window is that many latent frames at a time, causal between them.
    """

    def branches(x, sigma, text, context):
        """Of as many branches as there are rows of `text` (and of `context`)."""
        rows = lambda value: jnp.broadcast_to(value, (len(text), 1, *jnp.shape(value)))
        inputs = (rows(x[0]), rows(sigma), text[:, None], rows(positions), context)
        sources = None
        if block > 1:
            inputs, sources = block_causal.split(block, *inputs)
        v, _ = net.apply({"params": params}, *inputs, self_context=sources, fps=model.chunk.fps)
        return v.reshape(len(text), *x.shape[1:])

    if _paired(model, net.layout):
        both_texts = net.layout.pair(given.text, given.null_text)

        def velocity(x, sigma):
            both = branches(x, sigma, both_texts, context)
            return flow.guide(both[:1], both[1:], scale)

        return velocity

    def velocity(x, sigma):
        v = branches(x, sigma, given.text[None], context)
        if isinstance(scale, float) and scale == 1.0:
            return v
        null = context if null_context is None else null_context
        return flow.guide(v, branches(x, sigma, given.null_text[None], null), scale)

    return velocity


def _clean_pass(
    net: WanDiT,
    params: Any,
    model: ModelConfig,
    latents: Latents,
    positions: Int[Array, "n 3"],
    probes: tuple[Array, Array],
    text: Float[Array, "t d"],
    context: Context | None,
) -> ChunkKV:
    """Keys, values and importances of clean latents (Algorithm 2, lines 2-9)."""
    index, visible = probes
    _, kv = net.apply(
        {"params": params}, latents[None, None], jnp.full((1, 1), model.build.label, jnp.float32),
        text[None, None], positions[None, None], context, probe_index=index, probe_visible=visible,
        return_kv=True, fps=model.chunk.fps,
    )  # fmt: skip
    return kv


def _solver_key(given: ChunkInput) -> Key[Array, ""]:
    return purpose_key(given.key, "solver", given.chunk_id)
