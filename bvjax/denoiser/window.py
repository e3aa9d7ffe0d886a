"""Several chunks at once, each at a noise level of its own: passes over a window (`bvjax.policies`).

The places of a window are chunks along the chunk axis of the network.  A place sees itself, the places of the window
that it may see, layer by layer, and the entries of the bank that it may see; all places and entries are on one clock,
so that an entry's keys are rotated once for all of them.  One more place can hold packed latents: patches of anywhere in
the video, at positions of their own, that all others see and that are never denoised.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, Real

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig, SamplerConfig
from bvjax.denoiser.passes import network, predict_velocity
from bvjax.denoiser.types import MemoryState
from bvjax.diffusion import flow, solvers, unipc
from bvjax.memory import retrieval
from bvjax.memory.bank import KVBank
from bvjax.memory.retrieval import Selection
from bvjax.nets.dit import Context, SelfContext
from bvjax.sharding import ONE_DEVICE


@struct.dataclass
class Packed:
    """Patches of clean latents in the form of one more chunk, of which the first `count` are meant."""

    latents: Float[Array | np.ndarray, "l h w z"]
    positions: Float[Array | np.ndarray, "n 3"]  # (t, h, w); means of what was pooled
    count: Int[Array | np.ndarray, ""]


@struct.dataclass
class WindowInput:
    """Inputs of the passes of one round; P places, E entries of the bank."""

    start: Int[
        Array | np.ndarray, "p"
    ]  # step of the first pass; below 0 the place waits, from the last on it is clean
    text: Float[Array | np.ndarray, "p t d"]
    null_text: Float[Array | np.ndarray, "t d"]
    times: Int[Array | np.ndarray, "p"]  # latent frame at which each place begins, for RoPE
    sees: Bool[Array | np.ndarray, "p p"]  # other places of the window
    keys: Key[Array, "p"]  # of the sampler, where it draws
    entry_sees: Bool[Array | np.ndarray, "p e"]
    entry_times: Int[Array | np.ndarray, "e"]
    entries: Selection | None  # [1, E]; None: there is no bank
    packed: Packed | None = None


Scales = tuple[tuple[float, float], ...]


def plain_scales(model: ModelConfig) -> Scales:
    """Guidance by captions alone, at all steps: (by what was before, by the caption) for each step."""
    return ((1.0, model.guidance.scale),) * model.sampler.steps


def init_window(sampler: SamplerConfig, shape: tuple[int, ...]) -> Any:
    """The sampler's state of a window [1, P, l, h, w, z] that nothing is in yet."""
    empty = jnp.zeros(shape, jnp.float32)
    return unipc.init(empty) if sampler.kind == "unipc" else empty


def samples(state: Any) -> Float[Array, "1 P l h w z"]:
    """The samples of a window at their levels."""
    return state.x if isinstance(state, unipc.State) else state


def put(state: Any, place: Int[Array, ""], latents: Float[Array, "l h w z"]) -> Any:
    """The state with one place begun anew from `latents`: noise, or a chunk that is finished."""
    fresh = unipc.init(latents) if isinstance(state, unipc.State) else latents
    return jax.tree.map(lambda old, new: old.at[0, place].set(new), state, fresh)


def advance(
    params: Any,
    model: ModelConfig,
    state: Any,
    memory: MemoryState | None,
    inputs: WindowInput,
    passes: int,
    scales: Scales,
) -> Any:
    """The window after so many passes: each place takes a step of the sampler in each, or waits, or is clean.

    Args:
        params: of the DiT.
        state: of `init_window` and `put`.
        memory: the bank that `inputs.entries` selects from.
        passes: static.
        scales: static; of `guidance` at each step.
    """
    sampler, count = model.sampler, model.sampler.steps
    levels = jnp.asarray(solvers.sigmas(sampler))
    labels = jnp.asarray(solvers.timesteps(sampler) / np.float32(solvers.TRAIN_STEPS))
    velocity = _velocity(params, model, memory, inputs, scales)
    weights = unipc.weights(solvers.sigmas(sampler), sampler.corrector) if _is_unipc(model) else ()

    def body(state, k):
        step = inputs.start + k
        index = jnp.clip(step, 0, count - 1)
        label = jnp.where(step >= count, 0.0, labels[index])
        x = samples(state)
        v = velocity(x, label[None], index)
        sigma, sigma_next = levels[index][None], levels[index + 1][None]
        if sampler.kind == "unipc":
            new = unipc.step(
                state, v, sigma, jax.tree.map(lambda w: jnp.asarray(w)[index][None], weights)
            )
        elif sampler.kind == "euler":
            new = solvers.euler_step(x, v, sigma, sigma_next)
        else:
            new = jax.vmap(solvers.renoise_step)(
                x[0][:, None], v[0][:, None], sigma[0], sigma_next[0], inputs.keys, index
            )[:, 0][None]
        moves = (step >= 0) & (step < count)
        keep = lambda old, new: jnp.where(flow.align(moves[None], old) > 0, new, old)
        return jax.tree.map(keep, state, new), None

    return jax.lax.scan(body, state, jnp.arange(passes, dtype=jnp.int32))[0]


def _is_unipc(model):
    return model.sampler.kind == "unipc"


def _velocity(params, model, memory, inputs, scales):
    """(x [1, P, ...], label [1, P], step [P]) -> guided velocity of the places."""
    net, grid = network(model, ONE_DEVICE), ChunkGrid.of(model)
    places = len(inputs.times)
    positions = jnp.asarray(grid.positions(grid.latents_per_chunk)).astype(jnp.float32)
    positions = jnp.broadcast_to(positions, (places, *positions.shape))
    positions = positions.at[..., 0].add(inputs.times[:, None])
    sees, rows = inputs.sees, None
    text = inputs.text
    null_text = jnp.broadcast_to(inputs.null_text, text.shape)
    if inputs.packed is not None:
        positions = jnp.concatenate([positions, inputs.packed.positions[None]])
        sees = jnp.pad(sees, ((0, 1), (0, 1)))
        alone = jnp.arange(places + 1) == places
        sees = sees | (
            alone[None] ^ alone[:, None]
        )  # it is seen by all, and sees all, as in one window
        inside = jnp.arange(positions.shape[1]) < inputs.packed.count
        rows = jnp.where(alone[:, None], inside, True)[None]
        text, null_text = (jnp.concatenate([t, t[:1]]) for t in (text, null_text))
    positions = positions[None]
    context = _context(model, memory, inputs) if memory is not None else None
    null_context = context
    if memory is not None and memory.null_bank is not None:
        null_context = _context(model, memory.replace(bank=memory.null_bank), inputs)

    def branch(x, label, text, context, sees):
        if inputs.packed is not None:
            x = jnp.concatenate([x, inputs.packed.latents[None, None]], axis=1)
            label = jnp.concatenate([label, jnp.zeros_like(label[:, :1])], axis=1)
        sources = SelfContext(
            index=jnp.broadcast_to(jnp.arange(sees.shape[1], dtype=jnp.int32), (1, *sees.shape)),
            valid=sees[None],
            entry_positions=jnp.broadcast_to(
                positions[:, None], (1, len(sees), *positions.shape[1:])
            ),
            similarity=jnp.zeros((1, *sees.shape), jnp.float32),
            own=rows,
        )
        keep = None if rows is None else (lambda importance: rows)
        v = predict_velocity(
            net, params, model, x, label, text[None], positions, context, sources, keep_fn=keep
        )
        return v[:, :places]

    by_past, by_text = (np.array(column, np.float32) for column in zip(*scales, strict=True))

    def velocity(x, label, step):
        full = lambda: branch(x, label, text, context, sees)
        told_nothing = lambda: branch(x, label, null_text, null_context, sees)
        if (by_past == 1.0).all():
            if (by_text == 1.0).all():
                return full()
            scale = flow.align(jnp.asarray(by_text)[step][None], x)
            return flow.guide(full(), told_nothing(), scale)
        forgetful = branch(x, label, null_text, None, jnp.zeros_like(sees))
        past, caption = (flow.align(jnp.asarray(s)[step][None], x) for s in (by_past, by_text))
        v_null = told_nothing()
        return forgetful + past * (v_null - forgetful) + caption * (full() - v_null)

    return velocity


def _context(model: ModelConfig, memory: MemoryState, inputs: WindowInput) -> Context | None:
    """The entries' rows, and which of them each place sees."""
    bank, selection = memory.bank, inputs.entries
    assert isinstance(bank, KVBank)
    if selection is None or not selection.index.shape[-1]:
        return None
    packed = retrieval.assemble(
        bank, selection, jnp.asarray(inputs.entry_times)[None], model.dit.rope_theta,
        dtype=jnp.dtype(model.dit.dtype),
    )  # fmt: skip
    places = len(inputs.times)
    owner = retrieval.row_owners(bank, selection, packed.keys.shape[3])  # [y, 1, s], E: none
    sees = jnp.pad(inputs.entry_sees, ((0, 0), (0, 1)))
    mask = jnp.moveaxis(sees[:, owner[:, 0]], 0, 1)[:, None]
    if inputs.packed is not None:  # packed latents see no bank
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 1), (0, 0)))
        places += 1
    each = functools.partial(_to_places, places)
    return Context(
        keys=each(packed.keys),
        values=each(packed.values),
        mask=mask,
        similarity=None if packed.similarity is None else each(packed.similarity),
    )


def _to_places(places: int, x: Real[Array, "y 1 1 *s"]) -> Real[Array, "y 1 p *s"]:
    return jnp.broadcast_to(x, (*x.shape[:2], places, *x.shape[3:]))
