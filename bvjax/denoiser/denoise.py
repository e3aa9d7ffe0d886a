"""Denoising of a chunk, from noise to latents: sigma 1 -> 0 along the guided velocity (Eq. 10)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser import guidance
from bvjax.denoiser.context import ChunkContext, prepare_context
from bvjax.denoiser.guidance import Velocity
from bvjax.denoiser.passes import chunk_positions, network, predict_velocity
from bvjax.denoiser.types import ChunkInput, Latents, MemoryState
from bvjax.denoiser.watch import Watch, looker
from bvjax.diffusion import diffusion_forcing, flow
from bvjax.diffusion.noise import anchor_noise, initial_noise, level_of, schedule_levels
from bvjax.diffusion.solvers import Start, solve
from bvjax.nets import block_causal
from bvjax.nets.dit import Context, PreviousLatent, WanDiT
from bvjax.random import purpose_key
from bvjax.sharding import ONE_DEVICE, Layout


def denoise_anchor(
    params: Any,
    model: ModelConfig,
    inputs: ChunkInput,
    layout: Layout = ONE_DEVICE,
    graded: int | None = None,
    watch: Watch | None = None,
) -> Latents:
    """Latents of the anchor, [1, h, w, z], from noise and the first caption alone.

    Args:
        graded: static; as of `denoise_chunk`.
        watch: as of `denoise_chunk`.
    """
    velocity = anchor_velocity(params, model, inputs, layout)
    noise = noise_of_anchor(model, inputs)
    look = looker(watch, inputs.chunk_id, anchor=True)
    return solve(model.sampler, velocity, noise, solver_key(inputs), graded, look)[0]


def denoise_chunk(
    params: Any,
    model: ModelConfig,
    state: MemoryState,
    inputs: ChunkInput,
    prefix: Latents | None = None,
    layout: Layout = ONE_DEVICE,
    graded: int | None = None,
    watch: Watch | None = None,
) -> Latents:
    """Latents of one chunk from noise, given the memory.

    Differentiable in `params`, `state`, `prefix` and the text.

    Args:
        params: of the DiT.
        prefix: clean latents at the head of the window; they get sigma 0, or what
            `sampler.history_noise` says, and stay as they are.
        layout: static; the devices that share the work, see `bvjax.sharding`.
        graded: static; how many of the last evaluations of the network carry gradient.  Those before
            them are computed as constants, which costs no memory for a backward pass.  None: all.
            The latents do not depend on it.
        watch: is told of each step, but for diffusion forcing; the latents do not depend on it.

    Returns:
        float32 [W, h, w, z]: L latents, with chunk.first="overlap" P more in front.
    """
    chunk_context = prepare_context(model, state, inputs, layout, guided=True)
    noise = noise_of_chunk(model, inputs, layout)
    noise, start = _begun(model, inputs, chunk_context, noise)
    velocity = window_velocity(params, model, inputs, chunk_context, layout)
    key, history = solver_key(inputs), None if prefix is None else prefix[None]
    fixed = 0 if prefix is None else len(prefix)
    if diffusion_forcing.is_required(model.sampler, fixed):
        return diffusion_forcing.solve(model.sampler, velocity, noise, history, key, graded)[0]
    look = looker(watch, inputs.chunk_id)
    if prefix is None:
        return solve(model.sampler, velocity, noise, key, graded, look, start)[0]

    def with_prefix(x, sigma):
        x = jnp.concatenate([history, x], axis=1)
        return velocity(x, jnp.where(jnp.arange(x.shape[1]) < fixed, jnp.float32(0.0), sigma))[
            :, fixed:
        ]

    free = solve(model.sampler, with_prefix, noise[:, fixed:], key, graded, look, start)
    return jnp.concatenate([prefix, free[0]])


def _begun(
    model: ModelConfig,
    inputs: ChunkInput,
    chunk_context: ChunkContext,
    noise: Float[Array, "1 W h w z"],
) -> tuple[Float[Array, "1 W h w z"], Start | None]:
    """The sample that a chunk begins with and, with levels.start="level", from which level on.

    That is (1 - eps_c) times the last latent of the chunk before, in all frames, plus eps_c times the noise.
    """
    begin, levels = chunk_context.begin, model.levels
    if begin is None:
        return noise, None
    number = jnp.clip(ChunkGrid.of(model).number_of(inputs.chunk_id), 1, levels.chunks)
    known = begin.known[0, 0]
    sigma = jnp.where(known, level_of(levels, number), 1.0)
    start = Start(
        jnp.where(known, number, 0), tuple(schedule_levels(levels, levels.chunks).tolist())
    )
    return jnp.asarray(flow.interpolate(begin.values(), noise, sigma)), start


def window_velocity(
    params: Any,
    model: ModelConfig,
    inputs: ChunkInput,
    chunk_context: ChunkContext,
    layout: Layout = ONE_DEVICE,
) -> Velocity:
    """The guided velocity of a chunk's window, [1, W, h, w, z], as the solvers want it.

    Args:
        seen: by `prepare_context` with `guided`, on the same layout.
    """
    grid = ChunkGrid.of(model)
    positions = chunk_positions(
        model, grid.window_latents, chunk_context.start, -grid.overlap_latents
    )
    scale = guidance.guidance_scale(model, chunk_context.selection.valid[0])
    return _guided(
        network(model, layout),
        params,
        model,
        inputs,
        positions,
        scale,
        chunk_context.context,
        chunk_context.null_context,
        model.sampler.causal_block,
        chunk_context.previous,
    )


def anchor_velocity(
    params: Any, model: ModelConfig, inputs: ChunkInput, layout: Layout = ONE_DEVICE
) -> Velocity:
    """The guided velocity of the anchor, [1, 1, h, w, z], as the solvers want it."""
    positions = chunk_positions(model, 1, jnp.int32(0))
    net = network(model, layout.for_tokens(len(positions)))
    return _guided(net, params, model, inputs, positions, model.guidance.scale)


def noise_of_anchor(model: ModelConfig, inputs: ChunkInput) -> Float[Array, "1 1 h w z"]:
    """The sample that the anchor begins with, at sigma 1."""
    return anchor_noise(inputs.key, (1, *ChunkGrid.of(model).latent_size, model.dit.in_channels))


def noise_of_chunk(
    model: ModelConfig, inputs: ChunkInput, layout: Layout = ONE_DEVICE
) -> Float[Array, "1 W h w z"]:
    """The sample that a chunk's window begins with, at sigma 1 (Eq. 12, 13)."""
    grid = ChunkGrid.of(model)
    frame = (*grid.latent_size, model.dit.in_channels)
    number = grid.number_of(inputs.chunk_id)
    noise = initial_noise(model.noise, inputs.key, number, (grid.latents_per_chunk, *frame))
    if grid.overlap_latents:
        head = anchor_noise(inputs.key, (grid.overlap_latents, *frame))
        noise = jnp.concatenate([head, noise], axis=1)
    return layout.constrain(noise)  # each device draws all of it


def solver_key(inputs: ChunkInput) -> Key[Array, ""]:
    """The key of a sampler that draws."""
    return purpose_key(inputs.key, "solver", inputs.chunk_id)


def _guided(
    net: WanDiT,
    params: Any,
    model: ModelConfig,
    inputs: ChunkInput,
    positions: Int[Array, "n 3"],
    scale: float | Float[Array, ""],
    context: Context | None = None,
    null_context: Context | None = None,
    block: int = 1,
    previous: PreviousLatent | None = None,
) -> Velocity:
    """The velocity of a window at one sigma or one a frame, guided by `scale`.

    With `block` above 1 the window is that many latent frames at a time, causal between them.
    """

    def branches(x, sigma, text, context):
        """Returns the velocities of as many branches as `text` (and `context`) has rows."""
        rows = lambda value: jnp.broadcast_to(value, (len(text), 1, *jnp.shape(value)))
        window = (rows(x[0]), rows(sigma), text[:, None], rows(positions), context)
        sources = None
        if block > 1:
            window, sources = block_causal.split(block, *window)
        before = jax.tree.map(lambda value: rows(value[0, 0]), previous)
        v = predict_velocity(net, params, model, *window, self_context=sources, previous=before)
        return v.reshape(len(text), *x.shape[1:])

    if guidance.is_paired(model, net.layout):
        both_texts = net.layout.pair(inputs.text, inputs.null_text)

        def velocity(x, sigma):
            velocities = branches(x, sigma, both_texts, context)
            return flow.guide(velocities[:1], velocities[1:], guidance.aligned(scale, velocities))

        return velocity

    null_context = context if null_context is None else null_context
    return guidance.guide(
        lambda x, sigma: branches(x, sigma, inputs.text[None], context),
        lambda x, sigma: branches(x, sigma, inputs.null_text[None], null_context),
        scale,
    )
