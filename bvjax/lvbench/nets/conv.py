"""Convolutions and norms that the convolutional metric networks share, channels last.

Convolutions and matmuls ask for the highest precision: accelerators would otherwise round their operands, and what
the networks measure are small differences between neighbouring frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

HIGHEST = jax.lax.Precision.HIGHEST
_EPS = 1e-5  # PyTorch's, of instance and batch norms


def hwio(kernel: Float[np.ndarray, "o i kh kw"]) -> Float[np.ndarray, "kh kw i o"]:
    """PyTorch's layout of a kernel to JAX's."""
    return np.ascontiguousarray(np.transpose(kernel, (2, 3, 1, 0)))


def conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "kh kw i o"],
    bias: Float[Array, " o"] | None = None,
    stride: int = 1,
) -> Float[Array, "b h2 w2 o"]:
    """Zero padded by half the (odd) kernel, so that stride 1 keeps the size."""
    pads = [(side // 2, side // 2) for side in kernel.shape[:2]]
    out = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=HIGHEST,
    )
    return out if bias is None else out + bias


def doubling_kernel(kernel: Float[np.ndarray, "i o 4 4"]) -> Float[np.ndarray, "2 2 i 4*o"]:
    """PyTorch's kernel of a transposed convolution (size 4, stride 2, padding 1) for `doubling`.

    Output row 2 y + a gets input rows y + a - 1 and y + a through kernel rows 3 - a and 1 - a;
    columns alike.
    """
    taps = np.asarray(kernel)[:, :, [[3, 1], [2, 0]]][..., [[3, 1], [2, 0]]]  # i o a p b q
    inputs, outputs = kernel.shape[:2]
    return np.ascontiguousarray(taps.transpose(3, 5, 0, 2, 4, 1)).reshape(2, 2, inputs, 4 * outputs)


def doubling(
    x: Float[Array, "b h w i"], kernel: Float[Array, "2 2 i 4*o"], bias: Float[Array, " o"]
) -> Float[Array, "b 2*h 2*w o"]:
    """The transposed convolution of `doubling_kernel`: four convolutions of size 2 in one."""
    b, h, w, _ = x.shape
    outputs = jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=HIGHEST,
    )
    outputs = outputs.reshape(b, h + 1, w + 1, 2, 2, -1)
    rows = [
        jnp.stack([outputs[:, r : r + h, c : c + w, r, c] for c in (0, 1)], axis=3) for r in (0, 1)
    ]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, -1) + bias


def instance_norm(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Each channel of each picture brought to mean 0 and (biased) variance 1."""
    x = x - _mean(x)
    return x * jax.lax.rsqrt(_mean(jnp.square(x)) + _EPS)


def _mean(x: Float[Array, "b h w c"]) -> Float[Array, "b 1 1 c"]:
    return x.mean(2, keepdims=True).mean(1, keepdims=True)  # two short sums round less than one


def fold_norm(
    kernel: Float[np.ndarray, "o i kh kw"],
    bias: Float[np.ndarray, " o"],
    tensors: Mapping[str, np.ndarray],
    norm: str,
) -> tuple[Float[np.ndarray, "o i kh kw"], Float[np.ndarray, " o"]]:
    """A convolution and the batch norm (of running statistics) behind it, as one convolution."""
    get = lambda part: np.asarray(tensors[f"{norm}.{part}"], np.float64)
    scale = get("weight") / np.sqrt(get("running_var") + _EPS)
    folded = kernel * scale[:, None, None, None]
    shift = (bias - get("running_mean")) * scale + get("bias")
    return folded.astype(np.float32), shift.astype(np.float32)


def prelu(x: Float[Array, "*b c"], slope: Float[Array, " c"]) -> Float[Array, "*b c"]:
    """x where it is positive, slope * x elsewhere."""
    return jnp.where(x > 0, x, slope * x)


def pad_to(x: Num[Array, "b h w c"], multiple: int) -> Num[Array, "b H W c"]:
    """Border pixels repeated until both sides are multiples; an odd one goes right or below."""
    pads = [(0, 0), *(split_padding(side, multiple) for side in x.shape[1:3]), (0, 0)]
    return jnp.pad(x, pads, mode="edge")


def crop_to(x: Num[Array, "b H W c"], size: tuple[int, int]) -> Num[Array, "b h w c"]:
    """Crops a padded array back to the size before `pad_to`."""
    top, left = (
        (current - target) // 2 for current, target in zip(x.shape[1:3], size, strict=True)
    )
    return x[:, top : top + size[0], left : left + size[1]]


def split_padding(side: int, multiple: int) -> tuple[int, int]:
    """Returns the pixels that `pad_to` adds before and after an axis of this size."""
    padding = -side % multiple
    return padding // 2, padding - padding // 2
