"""Latents to frames as they come, and pixels back to latents where a layout needs it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.nets import vae

Latents = Float[Array, "l h w z"]


def decode_piece(
    params: Any, model: ModelConfig, state: vae.VAEState | None, latents: Latents
) -> tuple[vae.VAEState, UInt8[np.ndarray, "f h w 3"]]:
    """Frames of the next piece of a video, with the decoder's memory of what came before.

    Args:
        params: of the VAE.
        state: None before the first piece, then what the call before returned.
        latents: a piece as `stream` yields it.

    Returns:
        With chunk.first="overlap" and chunk.history="pixels" each window is decoded on its own and
        the frames it shares with the window before are dropped; otherwise the causal decoder simply
        goes on, from behind the latents that it has had already.
    """
    windows = model.chunk.first == "overlap"
    overlap = windows and model.chunk.history == "pixels"
    first = state is None or overlap
    if windows and not first:
        latents = latents[ChunkGrid(model.chunk, 1, model.dit.patch).overlap_latents :]
    if first:
        start = vae.init_decode_state(model.vae, 1, model.chunk.height, model.chunk.width)
        fresh, frames = _decode(params, model.vae, start, latents, first=True)
    else:
        fresh, frames = _decode(params, model.vae, state, latents, first=False)
    frames = np.asarray(frames)
    if overlap and state is not None:
        frames = frames[model.chunk.overlap_frames :]
    return fresh, frames


def encode_image(
    params: Any, model: ModelConfig, image: UInt8[np.ndarray, "h w 3"]
) -> Float[np.ndarray, "1 h w z"]:
    """The guidance latent of a first image."""
    frame = vae.to_float(jnp.asarray(image)[None])
    return np.asarray(_encode(params, model.vae, frame))


def overlap_prefix(params: Any, model: ModelConfig, window: Latents) -> Latents:
    """The clean head of the next window: the end of the last one, its `overlap_frames` last frames.

    chunk.history="pixels" decodes them and encodes them again, as SkyReels-V2's own code does;
    "latents" takes the latents as they are, as diffusers' pipeline does.
    """
    if model.chunk.history == "latents":
        return window[-ChunkGrid(model.chunk, 1, model.dit.patch).overlap_latents :]
    return _reencode(params, model.vae, window, model.chunk.overlap_frames)


@functools.partial(jax.jit, static_argnames=("config", "first"))
def _decode(params, config, state, latents, *, first):
    state, frames = vae.decode_pictures(params, config, state, latents[None], first=first)
    return state, frames[0]


@functools.partial(jax.jit, static_argnames="config")
def _encode(params, config, frames):
    return vae.encode(params, config, frames[None])[0]


@functools.partial(jax.jit, static_argnames=("config", "overlap_frames"))
def _reencode(params, config, window, overlap_frames):
    frames = vae.decode(params, config, window[None])[:, -overlap_frames:]
    return vae.encode(params, config, frames)[0]
