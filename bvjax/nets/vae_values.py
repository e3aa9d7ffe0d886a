"""Values at both ends of the VAE: pixels folded and scaled, latents normalised."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, UInt8

from bvjax.config import VAEConfig


def fold_patches(x: Float[Array, "b f h w c"], patch: int) -> Float[Array, "b f hp wp cp"]:
    """Squares of `patch` pixels become channels, rows before columns before colours (Wan2.2)."""
    return rearrange(x, "b f (h p) (w q) c -> b f h w (p q c)", p=patch, q=patch)


def unfold_patches(x: Float[Array, "b f hp wp cp"], patch: int) -> Float[Array, "b f h w c"]:
    """Inverse of `fold_patches`."""
    return rearrange(x, "b f h w (p q c) -> b f (h p) (w q) c", p=patch, q=patch)


def normalise(
    config: VAEConfig, mu: Float[Array | np.ndarray, "b l h w z"], first: bool = True
) -> Float[Array, "b l h w z"]:
    """(mu - mean) / std * scale per channel (`latent_scale`, 1 by default).

    With `first` the first latent is that of a video's first frame, which has statistics of its own.
    """
    mean, unit = _statistics(config, mu.shape, first)
    return (mu - mean) / unit


def denormalise(
    config: VAEConfig, latents: Float[Array | np.ndarray, "b l h w z"], first: bool = True
) -> Float[Array, "b l h w z"]:
    """Inverse of `normalise`."""
    mean, unit = _statistics(config, latents.shape, first)
    return latents * unit + mean


def _statistics(config: VAEConfig, shape: tuple[int, ...], first: bool):
    """Means of latents of this shape, and what 1 of a normalised latent is before normalising."""
    means = np.array(config.latent_mean, np.float32)
    stds = np.array(config.latent_std, np.float32)
    if first and config.first_std:
        rows = (shape[1], 1, 1, 1)
        means, stds = np.tile(means, rows), np.tile(stds, rows)
        means[0], stds[0] = config.first_mean, config.first_std
    if config.latent_scale:
        return jnp.array(means), stds / np.array(config.latent_scale, np.float32)
    return jnp.array(means), stds


def to_float(frames: UInt8[Array | np.ndarray, "*n"]) -> Float[Array | np.ndarray, "*n"]:
    """0..255 to [-1, 1]."""
    return frames.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(frames: Float[Array | np.ndarray, "*n"]) -> UInt8[Array, "*n"]:
    """[-1, 1] to 0..255, clipped and rounded, on the device of `frames`."""
    return jnp.round((jnp.clip(frames, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
