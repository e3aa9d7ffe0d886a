"""All-pairs correlation volumes and windows of them (RAFT, Teed & Deng 2020, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bvjax.lvbench.nets.conv import HIGHEST

LEVELS = 4


def volume(
    first: Float[Array, "b h w d"], second: Float[Array, "b h2 w2 d"]
) -> Float[Array, "b h w h2 w2"]:
    """Products of all features of one picture with all of another, over sqrt(d)."""
    products = jnp.einsum("byxd,bvud->byxvu", first, second, precision=HIGHEST)
    return products / math.sqrt(first.shape[-1])


def pyramid(
    products: Float[Array, "b h w h2 w2"], radius: int, levels: int = LEVELS
) -> list[Float[Array, "b*h*w v u"]]:
    """The volume at 1, 1/2, 1/4, ... of the second picture's size, ready for `windows`.

    Each level is the mean of squares of two by two of the one before; an odd row or column at the
    end is dropped.  Around lie as many zeros as a window with its neighbours is wide, so that
    windows need no test of what is outside.
    """
    places = math.prod(products.shape[:3])
    level, margin, out = products.reshape(places, *products.shape[3:]), 2 * radius + 2, []
    for i in range(levels):
        if i:
            rows, columns = level.shape[1] // 2, level.shape[2] // 2
            level = level[:, : 2 * rows, : 2 * columns]
            level = level.reshape(len(level), rows, 2, columns, 2).mean((2, 4))
        out.append(jnp.pad(level, ((0, 0), (margin, margin), (margin, margin))))
    return out


def windows(
    levels: Sequence[Float[Array, "b*h*w v u"]], at: Float[Array, "b h w 2"], radius: int
) -> Float[Array, "b h w n"]:
    """Bilinear samples around each place (x, y), given at full size, in every level.

    The published networks add (row, column) offsets to (x, y): the window's first index walks
    along x, and their weights are trained for that order.

    Returns:
        n = levels * (2 radius + 1)^2: level by level, x offset by x offset.
    """
    places, size, found = at.reshape(-1, 2), 2 * radius + 2, []
    cut = jax.vmap(lambda level, y, x: jax.lax.dynamic_slice(level, (y, x), (size, size)))
    for i, level in enumerate(levels):
        place = places / 2**i
        corner = jnp.floor(place)
        x, y = jnp.moveaxis(place - corner, -1, 0)[..., None, None]
        # An offset beyond the margin shows zeros either way; clip keeps it a legal integer.
        rows, columns = (side - size for side in level.shape[1:])
        left = jnp.clip(corner[:, 0] + (size - radius), 0, columns).astype(jnp.int32)
        top = jnp.clip(corner[:, 1] + (size - radius), 0, rows).astype(jnp.int32)
        patch = cut(level, top, left).transpose(0, 2, 1)  # x first
        patch = patch[:, :-1] * (1 - x) + patch[:, 1:] * x
        patch = patch[:, :, :-1] * (1 - y) + patch[:, :, 1:] * y
        found.append(patch.reshape(len(patch), -1))
    return jnp.concatenate(found, axis=-1).reshape(*at.shape[:-1], -1)
