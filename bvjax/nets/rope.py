"""Rotary position embedding over (time, height, width), Wan2.1 layout.

Half of a head's dimensions, c = head_dim / 2, are complex rotations: c - 2 (c // 3) of them turn
with time and c // 3 each with height and width (22 / 21 / 21 at head_dim 128).  Each axis has a
full spectrum of its own, and the two parts of a rotation are neighbours: pairs (2k, 2k + 1).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from kernels_pallas.rope import rotate


def rope_frequencies(head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angular frequencies (radians per position) of the time, height and width axes.

    An axis that owns d real dimensions has theta^(-2k/d), k = 0 .. d/2 - 1 (RoFormer, arXiv
    2104.09864), in float64 because the error of a float32 power grows with the position.

    Raises:
      ValueError: `head_dim` is odd or too small to give each axis a rotation.
    """
    if head_dim % 2 or head_dim < 6:
        raise ValueError(f"head_dim is {head_dim}; 3-axis RoPE needs an even number of at least 6")
    half = head_dim // 2
    spatial = half // 3
    return tuple(
        theta ** (-np.arange(count, dtype=np.float64) / count)
        for count in (half - 2 * spatial, spatial, spatial)
    )


def angles(
    positions: Real[Array | np.ndarray, "*rows n 3"], head_dim: int, theta: float
) -> Float[Array, "*rows n half"]:
    """Rotation angles in radians, float32, of tokens at (t, h, w) positions, whole or means of pooled ones."""
    parts = [
        positions[..., axis, None].astype(jnp.float32) * jnp.asarray(frequency, jnp.float32)
        for axis, frequency in enumerate(rope_frequencies(head_dim, theta))
    ]
    return jnp.concatenate(parts, axis=-1)


def apply_rope(
    x: Float[Array, "*rows n a k"],
    angles: Float[Array, "... n half"],
    implementation: str = "auto",
) -> Float[Array, "*rows n a k"]:
    """Rotates each pair (x[2k], x[2k+1]) by its angle in float32; returns the dtype of `x`.

    Angles without the leading dimensions of `x` serve all rows.
    """
    return rotate(x, angles, implementation)
