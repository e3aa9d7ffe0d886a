"""The rotation of rotary position embedding; what the angles are is the caller's business."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kernels_pallas.platforms import resolve

FORMS = {"cpu": "pairs", "gpu": "pairs", "tpu": "product"}


def rotate(x: jax.Array, angles: jax.Array, implementation: str = "auto") -> jax.Array:
    """Each pair (x[2k], x[2k+1]) of x [..., n, A, K] by its angle, float32 radians [..., n, K/2].

    In float32; returns the dtype of `x`.  `pairs` takes them apart, for which a TPU changes its
    layout several times (440 MiB of copies for 37,440 tokens of 12 x 128 values in bfloat16, by
    XLA's count for v5p); `product` swaps the two of a pair by a product with a signed permutation
    (55 MiB), which is exact.

    Raises:
      ValueError: `implementation` is unknown; see `platforms.resolve`.
    """
    wide = x.astype(jnp.float32)
    if resolve("rotate", implementation, FORMS) == "pairs":
        pairs = wide.reshape(*x.shape[:-1], -1, 2)
        cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
        even, odd = pairs[..., 0], pairs[..., 1]
        rotated = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
        return rotated.reshape(x.shape).astype(x.dtype)
    angles = jnp.repeat(angles, 2, axis=-1)[..., None, :]
    swap = np.kron(np.eye(x.shape[-1] // 2), [[0, 1], [-1, 0]])  # (a, b) -> (-b, a)
    precision = jax.lax.Precision.HIGHEST if x.dtype.itemsize > 2 else None
    swapped = jnp.matmul(
        x, jnp.asarray(swap, x.dtype), precision=precision, preferred_element_type=jnp.float32
    )
    return (wide * jnp.cos(angles) + swapped * jnp.sin(angles)).astype(x.dtype)
