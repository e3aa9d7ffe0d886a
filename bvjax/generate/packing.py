"""Finished latent frames at a lower resolution, as one more chunk of a window (FramePack's packed context)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.window import Packed
from bvjax.policies.schedule import Pack


def pack_frames(
    model: ModelConfig,
    packs: Sequence[Pack],
    frame: Callable[[int], Float[np.ndarray, "h w z"]],
) -> Packed:
    """The means of `packs` as patches in raster order, and the mean (t, h, w) of what each is of.

    Sides that `pool` and the patch do not divide are continued by their last row, as in FramePack.

    Args:
        frame: latents of frame i of the video.

    Raises:
        ValueError: they are more patches than a chunk has.
    """
    grid = ChunkGrid.of(model)
    (height, width), (_, ph, pw), z = grid.latent_size, grid.patch, model.dit.in_channels
    patches: list[np.ndarray] = []
    positions: list[tuple[float, ...]] = []
    for pack in packs:
        frames = np.stack([np.asarray(frame(i), np.float32) for i in pack.frames])
        times = np.arange(pack.time, pack.time + len(frames), dtype=np.float32)
        rows, columns = (np.arange(size, dtype=np.float32) for size in (height // ph, width // pw))
        t, h, w = pack.pool
        frames = _padded(frames, (t, h * ph, w * pw))
        pooled = frames.reshape(
            len(frames) // t, t, frames.shape[1] // h, h, frames.shape[2] // w, w, z
        ).mean((1, 3, 5))
        size = (pooled.shape[1] // ph, pooled.shape[2] // pw)
        cut = pooled.reshape(len(pooled), size[0], ph, size[1], pw, z)
        patches.append(cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, ph, pw, z))
        means = [_means(axis, n) for axis, n in zip((times, rows, columns), pack.pool, strict=True)]
        positions += itertools.product(*means)
    tokens = np.concatenate(patches)
    if len(tokens) > grid.tokens_per_chunk:
        raise ValueError(
            f"{len(tokens)} tokens are more than the {grid.tokens_per_chunk} of a chunk"
        )
    return Packed(
        latents=_as_chunk(tokens, grid),
        positions=_padded(np.array(positions, np.float32), (grid.tokens_per_chunk, 1)),
        count=np.asarray(len(tokens), np.int32),
    )


def _padded(x: np.ndarray, multiples: tuple[int, ...]) -> np.ndarray:
    """`x` with its first axes continued to multiples of numbers."""
    missing = [-size % multiple for size, multiple in zip(x.shape, multiples, strict=False)]
    missing += [0] * (x.ndim - len(missing))
    return np.pad(x, [(0, count) for count in missing], mode="edge")


def _means(axis: np.ndarray, pool: int) -> list[float]:
    return _padded(axis, (pool,)).reshape(-1, pool).mean(1).tolist()


def _as_chunk(tokens: np.ndarray, grid: ChunkGrid) -> Float[np.ndarray, "l h w z"]:
    """Patches [n, ph, pw, z] where a chunk has its own, zeros after them."""
    (height, width), (_, ph, pw) = grid.latent_size, grid.patch
    missing = grid.tokens_per_chunk - len(tokens)
    tokens = np.pad(tokens, ((0, missing), (0, 0), (0, 0), (0, 0)))
    cut = tokens.reshape(grid.latents_per_chunk, height // ph, width // pw, ph, pw, -1)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(grid.latents_per_chunk, height, width, -1)
