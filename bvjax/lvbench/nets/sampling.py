"""Bilinear sampling at places between pixels, in pixels (PyTorch's `align_corners=True`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bvjax.errors import UserError

OUTSIDE = ("border", "zeros")


def sample(
    pictures: Float[Array, "b h w c"], at: Float[Array, "b *n 2"], outside: str = "border"
) -> Float[Array, "b *n c"]:
    """Values at (x right, y down), linear between the four pixels around.

    Args:
        outside: what lies beyond the outermost pixels: those themselves, or zeros.

    Raises:
        UserError: another `outside`.
    """
    if outside not in OUTSIDE:
        raise UserError(f"pixels outside are {outside!r}; they can be {' or '.join(OUTSIDE)}")
    if outside == "zeros":
        pictures = jnp.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)))
        at = at + 1
    padding = [max(0, 2 - side) for side in pictures.shape[1:3]]
    pictures = jnp.pad(pictures, ((0, 0), (0, padding[0]), (0, padding[1]), (0, 0)), mode="edge")
    height, width, channels = pictures.shape[1:]
    x = jnp.clip(at[..., 0], 0, width - 1)
    y = jnp.clip(at[..., 1], 0, height - 1)
    left = jnp.minimum(jnp.floor(x), width - 2)
    top = jnp.minimum(jnp.floor(y), height - 2)
    slice_2x2 = lambda picture, corner: jax.lax.dynamic_slice(
        picture, (*corner, 0), (2, 2, channels)
    )
    corners = jnp.stack([top, left], axis=-1).astype(jnp.int32).reshape(len(at), -1, 2)
    neighbours = jax.vmap(jax.vmap(slice_2x2, (None, 0)))(pictures, corners)
    neighbours = neighbours.reshape(*at.shape[:-1], 2, 2, channels)
    x, y = (x - left)[..., None], (y - top)[..., None]
    rows = neighbours[..., 0, :] * (1 - x[..., None]) + neighbours[..., 1, :] * x[..., None]
    return rows[..., 0, :] * (1 - y) + rows[..., 1, :] * y


def grid(height: int, width: int) -> Float[Array, "h w 2"]:
    """(x, y) of every pixel."""
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    return jnp.stack([x, y], axis=-1).astype(jnp.float32)


def warp(
    pictures: Float[Array, "b h w c"], flow: Float[Array, "b h w 2"]
) -> Float[Array, "b h w c"]:
    """At each pixel what `pictures` show at the pixel plus its (right, down) flow."""
    return sample(pictures, grid(*pictures.shape[1:3]) + flow)
