"""Frames to latents, chunk by chunk, as the causal VAE takes a video piece by piece.

Memory does not grow with the length of the video.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.distributed import exchange
from bvjax.errors import UserError
from bvjax.nets import vae
from bvjax.sharding import ONE_DEVICE, Layout

Frame = UInt8[np.ndarray, "h w 3"]


def encode_chunks(
    params: Any,
    model: ModelConfig,
    count: int,
    frames: Iterable[Frame],
    layout: Layout = ONE_DEVICE,
) -> Iterator[tuple[int, Float[np.ndarray, "l h w z"] | None]]:
    """Clean latents of the first `count` chunks of a video, as `rollout.stream` would yield them.

    Args:
        params: of the VAE.
        frames: as many as `count` chunks have, or more.
        layout: the devices that share the work.

    Yields:
        (chunk id, None) after each latent frame, (chunk id, latents) with a chunk's last one.
        With chunk.first="overlap" and chunk.history="pixels" each window is encoded by itself,
        with the frames that it shares with the one before; otherwise the encoder goes on.

    Raises `UserError` when there are too few frames.
    """
    params = jax.device_put({name: params[name] for name in vae.ENCODING if name in params})
    pictures, chunk = iter(frames), model.chunk
    separate_windows = chunk.first == "overlap" and chunk.history == "pixels"
    latents = _encode_frames(params, model, pictures, layout)
    shared: list[Frame] = []
    chunk_latents: list[np.ndarray] = []
    for chunk_id, (new, size) in latents_of(model, count).items():
        if separate_windows:
            fresh = chunk.overlap_frames + chunk.frames - len(shared)
            window = shared + list(itertools.islice(pictures, fresh))
            latents = _encode_frames(params, model, window, layout)
            shared = window[-chunk.overlap_frames :]
        for left in reversed(range(new)):
            try:
                chunk_latents.append(next(latents))
            except StopIteration:
                raise UserError(f"the video ends before its chunk {chunk_id} does") from None
            if left:
                yield chunk_id, None
        chunk_latents = chunk_latents[-size:]
        yield chunk_id, np.concatenate(chunk_latents)


def latents_of(model: ModelConfig, count: int) -> dict[int, tuple[int, int]]:
    """{chunk id: (latent frames to encode for it, latent frames it is stored with)}."""
    grid, chunk = ChunkGrid.of(model, count), model.chunk
    sizes = {piece_id: grid.piece_latents(piece_id) for piece_id in grid.piece_ids}
    # The head of such a window is encoded again.
    separate_windows = chunk.first == "overlap" and chunk.history == "pixels"
    return {
        i: (size if separate_windows or i == grid.piece_ids[0] else grid.latents_per_chunk, size)
        for i, size in sizes.items()
    }


def _encode_frames(
    params: Any, model: ModelConfig, frames: Iterable[Frame], layout: Layout
) -> Iterator[Float[np.ndarray, "1 h w z"]]:
    """One latent frame after the other: of the first frame, then of 4 frames (`temporal_factor`) each."""
    frames, chunk = iter(frames), model.chunk
    state, first = vae.init_encode_state(model.vae, 1, chunk.height, chunk.width), True
    length = 1
    while len(piece := list(itertools.islice(frames, length))) == length:
        state, latents = _encode(params, model.vae, state, np.stack(piece), layout, first=first)
        yield exchange.on_host(latents)
        first, length = False, model.vae.temporal_factor


@functools.partial(jax.jit, static_argnames=("config", "layout", "first"), donate_argnames="state")
def _encode(params, config, state, frames, layout, *, first):
    state, latents = vae.encode_stream(
        params, config, state, frames[None], first=first, layout=layout
    )
    return state, latents[0]
