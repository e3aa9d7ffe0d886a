"""The map from latents to colours, fitted from a VAE, and pictures of chunks in the making.

Fitted by least squares on what the VAE itself does: smooth coloured pictures that move are encoded, the latents are
decoded, and each latent pixel is paired with the mean colour of the pixels and frames that it decodes to.  The first
latent of a video is one frame, the others several: each kind has a map of its own.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

from bvjax.config import VAEConfig
from bvjax.nets import vae

CLIPS, LATENTS, SIDE = 24, 3, 8  # clips of so many latents of so many latent pixels a side
RIDGE = 1e-3  # of the mean square of a channel: channels that pictures hardly use stay out of it


def fit(
    params: Any, config: VAEConfig, seed: int = 0
) -> tuple[Float[np.ndarray, "z1 3"], Float[np.ndarray, "z1 3"]]:
    """(map of a first latent, map of the others): colours in [-1, 1], the last row being the offset."""
    frames = clips(config, seed)
    latents, decoded = _through(params, config, frames)
    latents, decoded = np.asarray(latents), np.asarray(decoded)
    seen = mean_colours(decoded, config)
    return (
        least_squares(latents[:, :1], seen[:, :1]),
        least_squares(latents[:, 1:], seen[:, 1:]),
    )


def clips(config: VAEConfig, seed: int) -> Float[np.ndarray, "b f h w 3"]:
    """Smooth coloured pictures that move, some with boxes of one colour, in [-1, 1]."""
    rng, side = np.random.default_rng(seed), SIDE * config.spatial_factor
    count = 1 + (LATENTS - 1) * config.temporal_factor
    made = np.empty((CLIPS, count, side, side, 3), np.float32)
    for clip in made:
        coarse = rng.integers(0, 256, (*rng.integers(2, 9, 2), 3), np.uint8)
        large = PIL.Image.fromarray(coarse).resize((side, side), PIL.Image.Resampling.BICUBIC)
        picture = np.asarray(large, np.float32) / 127.5 - 1
        if rng.random() < 0.5:
            top, left = rng.integers(0, side // 2, 2)
            picture[top : top + side // 2, left : left + side // 3] = rng.uniform(-1, 1, 3)
        step = rng.integers(-2, 3, 2)
        for index in range(count):
            clip[index] = np.roll(picture, tuple(step * index), (0, 1))
    return made


def mean_colours(
    frames: Float[np.ndarray, "b f h w 3"], config: VAEConfig
) -> Float[np.ndarray, "b l y x 3"]:
    """The mean colour of the pixels and frames that each latent pixel decodes to."""
    batch, _, height, width, _ = frames.shape
    s, t = config.spatial_factor, config.temporal_factor
    cells = frames.reshape(batch, -1, height // s, s, width // s, s, 3).mean((3, 5))
    later = cells[:, 1:].reshape(batch, -1, t, *cells.shape[2:]).mean(2)
    return np.concatenate([cells[:, :1], later], axis=1)


def least_squares(
    latents: Float[np.ndarray, "*n z"], colours: Float[np.ndarray, "*n 3"]
) -> Float[np.ndarray, "z1 3"]:
    """The affine map A of least |[latents 1] A - colours|^2, with a little weight on the size of A."""
    x = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
    y = colours.reshape(-1, 3).astype(np.float64)
    mean, offset = x.mean(0), y.mean(0)
    x = x - mean
    weight = RIDGE * np.mean(x**2) * len(x)
    slope = np.linalg.solve(x.T @ x + weight * np.eye(x.shape[1]), x.T @ (y - offset))
    return np.concatenate([slope, (offset - mean @ slope)[None]]).astype(np.float32)


def still(
    colours: UInt8[np.ndarray, "l h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The middle of a chunk in the making, in the size of its frames."""
    image = PIL.Image.fromarray(np.asarray(colours[len(colours) // 2]))
    return np.asarray(image.resize((width, height), PIL.Image.Resampling.BICUBIC))


@functools.partial(jax.jit, static_argnames="config")
def _through(params, config, frames):
    latents = vae.encode(params, config, frames)
    return latents, vae.decode(params, config, latents)
