"""What goes into the VAE and comes out of it: pixels folded and scaled, latents normalised."""

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


def normalise(config: VAEConfig, mu: Float[Array, "*n z"]) -> Float[Array, "*n z"]:
    """(mu - mean) / std * scale per channel (`latent_scale`, 1 by default)."""
    return (mu - jnp.array(config.latent_mean)) / _unit(config)


def denormalise(config: VAEConfig, latents: Float[Array, "*n z"]) -> Float[Array, "*n z"]:
    """Inverse of `normalise`."""
    return latents * _unit(config) + jnp.array(config.latent_mean)


def _unit(config: VAEConfig) -> Float[np.ndarray, "z"]:
    """What 1 of a normalised latent is before normalising."""
    std = np.array(config.latent_std, np.float32)
    return std / np.array(config.latent_scale, np.float32) if config.latent_scale else std


def to_float(frames: UInt8[Array, "*n"]) -> Float[Array, "*n"]:
    """0..255 to [-1, 1]."""
    return frames.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(frames: Float[Array, "*n"]) -> UInt8[Array, "*n"]:
    """[-1, 1] to 0..255, clipped and rounded, on the device of `frames`."""
    return jnp.round((jnp.clip(frames, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
