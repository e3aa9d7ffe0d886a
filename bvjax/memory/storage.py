"""The storage form of keys and values in a bank: as they are, or in 8 bits with scales.

8 bits are symmetric: a row x of one head becomes round(x / s) with s = max|x| / `largest`, and one
float32 s for each token, head and kind.  int8 is then within max|x| / 254 of every value; fp8
(e4m3: four bits of exponent, three of mantissa) within |x| / 16 and, of small values, s / 1024.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from bvjax.config import ModelConfig

LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}  # of the forms that have scales
DTYPES = ("", "bfloat16", *LARGEST)
OFFLOADS = ("none", "host")


def storage_dtype(model: ModelConfig) -> jnp.dtype:
    """Returns the dtype of the stored keys and values: `memory.dtype`, by default that of the matmuls."""
    return jnp.dtype(model.memory.dtype or model.dit.dtype)


def has_scales(dtype: DTypeLike) -> bool:
    """Returns whether rows of this dtype have scales, without which they mean nothing."""
    return jnp.dtype(dtype).name in LARGEST


def encode(
    x: Float[Array, "*rows A K"], dtype: DTypeLike | None
) -> tuple[Array, Float[Array, "*rows A"] | None]:
    """`x` as it is stored, and the scales of its rows; a row of zeros has scale 0.

    Args:
      dtype: None stores `x` as it is.
    """
    if dtype is None or not has_scales(dtype):
        return x if dtype is None else x.astype(dtype), None
    largest = LARGEST[jnp.dtype(dtype).name]
    x = x.astype(jnp.float32)
    scales = jnp.abs(x).max(-1) / largest
    x = x / jnp.where(scales > 0, scales, 1)[..., None]
    x = jnp.clip(x, -largest, largest)  # a scale too small for float32 is no multiple of the row
    if jnp.issubdtype(dtype, jnp.integer):
        x = jnp.round(x)
    return x.astype(dtype), scales


def decode(
    stored: Array, scales: Float[Array, "*rows A"] | None, dtype: DTypeLike | None
) -> Float[Array, "*rows A K"]:
    """The inverse of `encode`, in `dtype`; None: as stored, or float32 where there are scales."""
    if scales is not None:
        stored = stored.astype(jnp.float32) * scales[..., None]
    return stored if dtype is None else stored.astype(dtype)
