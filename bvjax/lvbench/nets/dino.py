"""DINO ViT-B/16 (Caron et al. 2021), the identity features of VBench's subject consistency."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bvjax.lvbench.nets import resize, vit

_EPS = 1e-6
_OFFSET = 0.1  # that the published network adds to the number of patches along a side
_NAMES = {
    f"{name}.{kind}": f"blocks.{{}}.{published_name}.{kind}"
    for name, published_name in (
        ("norm1", "norm1"),
        ("qkv", "attn.qkv"),
        ("out", "attn.proj"),
        ("norm2", "norm2"),
        ("up", "mlp.fc1"),
        ("down", "mlp.fc2"),
    )
    for kind in ("weight", "bias")
}


def shapes(
    width: int = 768, layers: int = 12, patch: int = 16, grid: int = 14
) -> dict[str, tuple[int, ...]]:
    """Published names and PyTorch's shapes; grid: patches along a side that positions are for."""
    tensor_shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + grid * grid, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    for i in range(layers):
        tensor_shapes |= {_NAMES[name].format(i): s for name, s in vit.block_shapes(width).items()}
    return tensor_shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def prepare(tensors: Mapping[str, np.ndarray]) -> dict:
    """The parameters that `dino` takes, from published tensors."""
    count = sum(name.endswith("attn.qkv.weight") for name in tensors)
    unlayered = ("cls_token", "pos_embed", "patch_embed.proj.bias", "norm.weight", "norm.bias")
    return {
        **{name: np.asarray(tensors[name]) for name in unlayered},
        "patch_embed.proj.weight": vit.patch_kernel(tensors["patch_embed.proj.weight"]),
        "layers": vit.stack_layers(tensors, count, _NAMES),
    }


def dino(
    params: Mapping, x: Float[Array, "b h w 3"], heads: int | None = None
) -> Float[Array, "b d"]:
    """The class token after the last norm.

    Args:
        x: pictures of any size, normalised (`official.preprocess.dino_input`).
        heads: 64 features each by default.
    """
    kernel = params["patch_embed.proj.weight"]
    width = kernel.shape[1]
    tokens = vit.matmul(vit.patches(x, _patch(params)), kernel) + params["patch_embed.proj.bias"]
    first = jnp.broadcast_to(params["cls_token"], (len(x), 1, width))
    tokens = jnp.concatenate([first, tokens], axis=1)
    tokens = tokens + positions(params["pos_embed"], x.shape[1], x.shape[2], _patch(params))
    gelu = lambda y: jax.nn.gelu(y, approximate=False)
    tokens = vit.blocks(tokens, params["layers"], heads or width // 64, _EPS, gelu)
    return vit.layer_norm(tokens[:, 0], params["norm.weight"], params["norm.bias"], _EPS)


def positions(
    embedding: Float[Array, "1 1+g*g d"], height: int, width: int, patch: int
) -> Float[Array, "1 1+n d"]:
    """Position embeddings of a picture of this size.

    Only a square picture of as many patches as were trained on takes them as they are.  Others
    get them resized by (patches + 0.1) / g along each side, so that even a side of g patches is
    resampled, slightly stretched: published scores depend on it.
    """
    grid = math.isqrt(embedding.shape[1] - 1)
    rows, columns = height // patch, width // patch
    if rows * columns == grid * grid and height == width:
        return embedding
    square = embedding[:, 1:].reshape(grid, grid, -1)
    scale = ((rows + _OFFSET) / grid, (columns + _OFFSET) / grid)
    resized = resize.resize(square, (rows, columns), "bicubic", scale)
    return jnp.concatenate([embedding[:, :1], resized.reshape(1, rows * columns, -1)], axis=1)


def _patch(params: Mapping) -> int:
    return math.isqrt(params["patch_embed.proj.weight"].shape[0] // 3)
