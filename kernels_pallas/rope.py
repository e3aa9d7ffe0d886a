"""The rotation of rotary position embedding; what the angles are is the caller's business."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Each pair (x[2k], x[2k+1]) of x [..., n, A, K] by its angle, float32 radians [..., n, K/2].

    In float32; returns the dtype of `x`.
    """
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    even, odd = pairs[..., 0], pairs[..., 1]
    rotated = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)
