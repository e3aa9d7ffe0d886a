"""Building blocks of the vision transformers: patches as rows, and pre-norm blocks in one scan.

All matmuls ask for the highest precision: accelerators would otherwise round the operands to
bfloat16 or TF32, which changes cosines of neighbouring frames more than a frame does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_HIGHEST = jax.lax.Precision.HIGHEST


def matmul(x: Float[Array, "*b i"], kernel: Float[Array, "i o"]) -> Float[Array, "*b o"]:
    """Multiplies matrices in float32 on every device."""
    return jnp.matmul(x, kernel, precision=_HIGHEST)


def layer_norm(
    x: Float[Array, "*b d"], scale: Float[Array, " d"], bias: Float[Array, " d"], eps: float
) -> Float[Array, "*b d"]:
    """Features brought to mean 0 and (biased) variance 1, then scaled and shifted."""
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps) * scale + bias


def patch_kernel(kernel: Float[np.ndarray, "d c p p"]) -> Float[np.ndarray, "p*p*c d"]:
    """A convolution whose stride is its size, as a matrix for `patches`."""
    return np.ascontiguousarray(kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0]))


def patches(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b n size*size*c"]:
    """Squares of a picture, row by row; what is left over at its right and bottom is dropped."""
    b, h, w, c = x.shape
    rows, columns = h // size, w // size
    x = x[:, : rows * size, : columns * size].reshape(b, rows, size, columns, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * columns, size * size * c)


def stack_layers(
    tensors: Mapping[str, np.ndarray], count: int, names: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """The layers of a checkpoint, stacked: {"qkv.weight": [layers, d, 3 d], "qkv.bias": ...}.

    Args:
        names: published names, with {} for the layer's number, of norm1, qkv, out, norm2, up and
            down, each with .weight and .bias.
    """
    return {  # a vector's transpose is itself
        name: np.stack([np.asarray(tensors[published_name.format(i)]).T for i in range(count)])
        for name, published_name in names.items()
    }


def block_shapes(width: int, ratio: int = 4) -> dict[str, tuple[int, ...]]:
    """Shapes of one layer's tensors as PyTorch keeps them, by our names."""
    sizes = {"qkv": (3, 1), "out": (1, 1), "up": (ratio, 1), "down": (1, ratio)}
    shapes: dict[str, tuple[int, ...]] = {}
    for part in ("norm1", "qkv", "out", "norm2", "up", "down"):
        if part in sizes:
            outputs, inputs = sizes[part]
            shapes[f"{part}.weight"] = (outputs * width, inputs * width)
            shapes[f"{part}.bias"] = (outputs * width,)
        else:
            shapes |= {f"{part}.weight": (width,), f"{part}.bias": (width,)}
    return shapes


def blocks(
    x: Float[Array, "b n d"],
    layers: Mapping[str, Float[Array, "l ..."]],
    heads: int,
    eps: float,
    activation: Callable[[Array], Array],
) -> Float[Array, "b n d"]:
    """x += attention(norm1(x)); x += down(activation(up(norm2(x)))), layer by layer."""

    def block(x: Array, p: Mapping[str, Array]) -> tuple[Array, None]:
        linear = lambda x, part: matmul(x, p[f"{part}.weight"]) + p[f"{part}.bias"]
        normed = lambda part: layer_norm(x, p[f"{part}.weight"], p[f"{part}.bias"], eps)
        x = x + linear(_attention(linear(normed("norm1"), "qkv"), heads), "out")
        x = x + linear(activation(linear(normed("norm2"), "up")), "down")
        return x, None

    return jax.lax.scan(block, x, dict(layers))[0]


def _attention(qkv: Float[Array, "b n 3*d"], heads: int) -> Float[Array, "b n d"]:
    """softmax(q k^T / sqrt(width of a head)) v, heads side by side."""
    b, n, width = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, heads, width // 3 // heads), 2, 0)
    logits = jnp.einsum("bnhe,bmhe->bhnm", q * q.shape[-1] ** -0.5, k, precision=_HIGHEST)
    mixed = jnp.einsum("bhnm,bmhe->bnhe", jax.nn.softmax(logits), v, precision=_HIGHEST)
    return mixed.reshape(b, n, width // 3)
