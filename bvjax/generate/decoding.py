"""Latents to frames as they come, and pixels back to latents where windows overlap."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.distributed import exchange
from bvjax.nets import vae
from bvjax.sharding import ONE_DEVICE, Layout

Latents = Float[Array, "l h w z"]


def decode_piece(
    params: Any,
    model: ModelConfig,
    state: vae.VAEState | None,
    latents: Latents,
    layout: Layout = ONE_DEVICE,
) -> tuple[vae.VAEState, UInt8[Array, "f h w 3"]]:
    """Frames of the next piece of a video, with the decoder's memory of what came before.

    Nothing here waits: latents may be in the making, and frames are when this returns.

    Args:
        params: of the VAE.
        state: None before the first piece, then what the call before returned.
        latents: a piece as `stream` yields it.
        layout: the devices that share the work.

    Returns:
        With chunk.first="overlap" and chunk.history="pixels" each window is decoded on its own and
        the frames it shares with the window before are dropped; otherwise the causal decoder simply
        goes on after the latents that it has decoded already.
    """
    chunk = model.chunk
    windows = chunk.first == "overlap"
    overlap = windows and chunk.history == "pixels"
    first = state is None or overlap
    skip = ChunkGrid.of(model).overlap_latents if windows and not first else 0
    drop = chunk.overlap_frames if overlap and state is not None else 0
    if first:
        state = vae.init_decode_state(model.vae, 1, chunk.height, chunk.width)
    if layout.mesh is not None and not isinstance(latents, jax.Array):
        # From a file: on the devices of the layout, or JAX names what comes out by the mesh of the parameters alone.
        where = layout.sharding()
        latents = jax.make_array_from_callback(latents.shape, where, latents.__getitem__)
    return _decode(
        params, model.vae, state, latents, first=first, skip=skip, drop=drop, layout=layout
    )


def encode_image(
    params: Any,
    model: ModelConfig,
    image: UInt8[np.ndarray, "h w 3"],
    layout: Layout = ONE_DEVICE,
) -> Float[np.ndarray, "1 h w z"]:
    """The anchor's latent, encoded from a first image."""
    frame = vae.to_float(jnp.asarray(image)[None])
    return exchange.on_host(_encode(params, model.vae, frame, layout))


def overlap_prefix(
    params: Any, model: ModelConfig, window: Latents, layout: Layout = ONE_DEVICE
) -> Latents:
    """The clean head of the next window: the end of the last one, its `overlap_frames` last frames.

    chunk.history="pixels" decodes them and encodes them again, as SkyReels-V2's own code does;
    "latents" takes the latents as they are, as diffusers' pipeline does.
    """
    if model.chunk.history == "latents":
        return window[-ChunkGrid.of(model).overlap_latents :]
    return _reencode(params, model.vae, window, model.chunk.overlap_frames, layout)


@functools.partial(jax.jit, static_argnames=("config", "first", "skip", "drop", "layout"))
def _decode(params, config, state, latents, *, first, skip, drop, layout):
    state, frames = vae.decode_pictures(
        params, config, state, latents[None, skip:], first=first, layout=layout
    )
    return state, frames[0, drop:]


@functools.partial(jax.jit, static_argnames=("config", "layout"))
def _encode(params, config, frames, layout):
    return vae.encode(params, config, frames[None], layout)[0]


@functools.partial(jax.jit, static_argnames=("config", "overlap_frames", "layout"))
def _reencode(params, config, window, overlap_frames, layout):
    frames = vae.decode(params, config, window[None], layout)[:, -overlap_frames:]
    return vae.encode(params, config, frames, layout)[0]
