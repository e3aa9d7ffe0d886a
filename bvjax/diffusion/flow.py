"""The straight path between data and noise (paper section 3.3) and its velocity.

sigma is the paper's t: 0 is data, 1 is noise.  Every function takes sigma as a scalar or with the
leading axes of the sample, for example [B], [B, C] (a level per chunk) or [B, C, L] (a level per
latent frame), and computes in float32 at least.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def align(
    values: ArrayLike, x: Float[Array | np.ndarray, "..."]
) -> Float[Array | np.ndarray, "..."]:
    """`values`, whose axes are the leading axes of `x`, with axes of size 1 appended."""
    values = jnp.asarray(values, jnp.float32)
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def interpolate(
    x0: Float[Array | np.ndarray, "..."], eps: Float[Array | np.ndarray, "..."], sigma: ArrayLike
) -> Float[Array | np.ndarray, "..."]:
    """Eq. 2: x_sigma = (1 - sigma) x0 + sigma eps."""
    sigma = align(sigma, x0)
    return (1.0 - sigma) * x0 + sigma * eps


def velocity(
    x0: Float[Array | np.ndarray, "..."], eps: Float[Array | np.ndarray, "..."]
) -> Float[Array | np.ndarray, "..."]:
    """Eq. 3 and 4: d x_sigma / d sigma = eps - x0, which the network is trained to predict."""
    return eps - x0


def x0_from_velocity(
    x: Float[Array | np.ndarray, "..."], v: Float[Array | np.ndarray, "..."], sigma: ArrayLike
) -> Float[Array | np.ndarray, "..."]:
    """The data end of the straight path through `x` along `v`: x0 = x - sigma v (Eq. 2, 3)."""
    return x - align(sigma, x) * v


def shift_sigma(sigma: ArrayLike, shift: ArrayLike) -> ArrayLike:
    """sigma' = s sigma / (1 + (s - 1) sigma): s > 1 spends more of [0, 1] near noise.

    Keeps 0 and 1, and maps 1/2 to s / (1 + s).  Works on floats, NumPy and JAX arrays, elementwise
    with broadcasting (Esser et al. 2024, section 5.3.2; Wan2.1 samples with s between 3 and 8).
    """
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


def guide(
    v_text: Float[Array | np.ndarray, "..."],
    v_null: Float[Array | np.ndarray, "..."],
    scale: float | Float[Array, "..."],
) -> Float[Array | np.ndarray, "..."]:
    """Classifier-free guidance of the velocity: v_null + scale (v_text - v_null).

    `scale` is a number, or an array that broadcasts to the velocities: one for each row.  scale 1
    is `v_text` up to rounding, so callers skip the null branch there (Ho & Salimans 2022, in the
    convention of Wan2.1).
    """
    return v_null + scale * (v_text - v_null)
