"""All-pairs correlation volumes and windows of them (RAFT, Teed & Deng 2020, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bvjax.errors import UserError
from bvjax.lvbench.nets.conv import HIGHEST

LEVELS = 4
STRIDE = 8  # pixels of a picture per feature
LARGEST = 12e9  # bytes that the correlations of a pair may take


def check_size(network: str, height: int, width: int, volumes: int) -> None:
    """Raises `UserError` for pictures whose correlations of all with all are too large to make.

    Args:
        network: that is to be measured.
        volumes: pyramids of a pair.
    """
    features = -(-height // STRIDE) * -(-width // STRIDE)
    needed = volumes * 4 * features**2 * 4 / 3
    if needed > LARGEST:
        raise UserError(
            f"frames of {width}x{height} are too large for {network}: the correlations of a pair take "
            f"{needed / 1e9:.0f} GB, and may take {LARGEST / 1e9:.0f}; make the video smaller"
        )


def pyramid(
    first: Float[Array, "b h w d"], second: Float[Array, "b h2 w2 d"], radius: int
) -> list[Float[Array, "b*h*w v u"]]:
    """Dot products over sqrt(d) of all features of one picture with all of another, for `windows`.

    There is one map per feature of `first`, at 1, 1/2, 1/4 and 1/8 of the second picture's size:
    each level is the mean of squares of two by two of the one before, and an odd row or column at
    its end is dropped.  The mean is taken, and zeros are put around, before the products, which
    are large: a margin as wide as a window with its neighbours saves windows every test of what is
    outside.
    """
    b, _, _, d = first.shape
    margin, out = 2 * radius + 2, []
    rows = first.reshape(b, -1, d) / math.sqrt(d)
    for level in range(LEVELS):
        if level:
            h, w = second.shape[1] // 2, second.shape[2] // 2
            second = second[:, : 2 * h, : 2 * w].reshape(b, h, 2, w, 2, d).mean((2, 4))
        wide = jnp.pad(second, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        columns = wide.reshape(b, -1, d)
        maps = jnp.einsum("bnd,bmd->bnm", rows, columns, precision=HIGHEST)
        out.append(maps.reshape(-1, *wide.shape[1:3]))
    return out


def windows(
    levels: Sequence[Float[Array, "b*h*w v u"]], at: Float[Array, "b h w 2"], radius: int
) -> Float[Array, "b h w n"]:
    """Bilinear samples around each position (x, y), given at full size, in every level.

    The published networks add (row, column) offsets to (x, y): the window's first index walks
    along x, and their weights are trained for that order.

    Returns:
        n = levels * (2 radius + 1)^2: level by level, x offset by x offset.
    """
    centres, size, patches = at.reshape(-1, 2), 2 * radius + 2, []
    slice_window = jax.vmap(lambda level, y, x: jax.lax.dynamic_slice(level, (y, x), (size, size)))
    for i, level in enumerate(levels):
        centre = centres / 2**i
        corner = jnp.floor(centre)
        x, y = jnp.moveaxis(centre - corner, -1, 0)[..., None, None]
        # An offset beyond the margin shows zeros either way; clip keeps it a legal integer.
        rows, columns = (side - size for side in level.shape[1:])
        left = jnp.clip(corner[:, 0] + (size - radius), 0, columns).astype(jnp.int32)
        top = jnp.clip(corner[:, 1] + (size - radius), 0, rows).astype(jnp.int32)
        patch = slice_window(level, top, left).transpose(0, 2, 1)  # x first
        patch = patch[:, :-1] * (1 - x) + patch[:, 1:] * x
        patch = patch[:, :, :-1] * (1 - y) + patch[:, :, 1:] * y
        patches.append(patch.reshape(len(patch), -1))
    return jnp.concatenate(patches, axis=-1).reshape(*at.shape[:-1], -1)
