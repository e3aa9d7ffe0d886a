"""Resizing exactly as PyTorch's `interpolate` does without antialiasing (align_corners false).

A resized row is a weighted sum of few rows of the input.  Which, and how much of each, is computed
once in NumPy with the roundings of PyTorch's CPU kernels: pixels near 255 make one float32 rounding
of a coordinate near 1000 visible in the second decimal of the result.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from bvjax.errors import UserError

KINDS = ("bilinear", "bicubic", "nearest")
_A = -0.75  # of the cubic kernel; Keys' own choice, and `jax.image.resize`'s, is -0.5


def resize(
    x: Num[Array, "*b h w c"],
    size: tuple[int, int],
    kind: str,
    scale: tuple[float, float] | None = None,
) -> Num[Array, "*b H W c"]:
    """`x` at another height and width, float32 (`nearest` keeps the type); cubic may overshoot.

    Pixel centres lie at (i + 0.5) for `bilinear` and `bicubic`; `nearest` takes floor(i * step).
    Indices outside of the picture are those of its border.

    Args:
        scale: output per input along height and width where coordinates are to be mapped by other
            factors than size / input size (PyTorch's `scale_factor`); an axis whose size
            does not change is left as it is by all kinds but `bicubic`.

    Raises:
        UserError: an unknown kind.
    """
    scales = scale or (None, None)
    x = x if kind == "nearest" else x.astype(jnp.float32)
    # The shorter result first: the second axis then has less to do.
    order = sorted((0, 1), key=lambda axis: size[axis] / x.shape[axis - 3])
    for axis in order:
        indices, weights = taps(x.shape[axis - 3], size[axis], kind, scales[axis])
        x = _weighted(x, x.ndim - 3 + axis, indices, weights)
    return x


def taps(
    size: int, target: int, kind: str, scale: float | None = None
) -> tuple[Int[np.ndarray, "t k"], Float[np.ndarray, "t k"]]:
    """Returns the input indices and float32 weights of each output when `size` becomes `target`."""
    if kind not in KINDS:
        raise UserError(f"a picture is resized by {kind!r}; it can be {', '.join(KINDS)}")
    one = np.float32(1)
    step = np.float32(1 / scale) if scale else np.float32(size) / np.float32(target)
    if kind != "bicubic" and size == target:
        return np.arange(size)[:, None], np.ones((size, 1), np.float32)
    if kind == "nearest":
        nearest = np.floor(np.arange(target, dtype=np.float32) * step).astype(np.int64)
        return np.minimum(nearest, size - 1)[:, None], np.ones((target, 1), np.float32)
    position = _fused(step, np.arange(target, dtype=np.float32) + np.float32(0.5), -0.5)
    if kind == "bilinear":
        position = np.maximum(position, np.float32(0))
    left = np.minimum(np.floor(position).astype(np.int64), size - 1)
    t = np.clip(position - left.astype(np.float32), 0, one)
    if kind == "bilinear":
        indices, weights = left[:, None] + np.arange(2), [one - t, t]
    else:
        indices = left[:, None] + np.arange(-1, 3)
        weights = [_far(t + one), _near(t), _near(one - t), _far(np.float32(2) - t)]
    return np.clip(indices, 0, size - 1), np.stack(weights, axis=1)


def short_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width after the shorter becomes `side`; the longer is rounded down."""
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def _near(x: np.ndarray) -> np.ndarray:
    """(A + 2) |x|^3 - (A + 3) |x|^2 + 1 of the cubic kernel, |x| <= 1."""
    a = np.float32(_A)
    return ((a + np.float32(2)) * x - (a + np.float32(3))) * x * x + np.float32(1)


def _far(x: np.ndarray) -> np.ndarray:
    """A |x|^3 - 5 A |x|^2 + 8 A |x| - 4 A of the cubic kernel, 1 < |x| < 2."""
    return _fused(_fused(np.float32(_A), x, -5 * _A), x, 8 * _A) * x - np.float32(4 * _A)


def _fused(a: np.ndarray, b: np.ndarray, c: float) -> np.ndarray:
    """a * b + c rounded to float32 once, as a fused multiply-add."""
    return np.float32(np.float64(a) * np.float64(b) + c)


def _weighted(x: Array, axis: int, indices: np.ndarray, weights: np.ndarray) -> Array:
    """Sums of `x`'s rows along an axis."""
    if indices.shape[1] == 1:
        return jnp.take(x, indices[:, 0], axis=axis)
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    return sum(
        jnp.take(x, index, axis=axis) * weight.reshape(shape)
        for index, weight in zip(indices.T, weights.T, strict=True)
    )
