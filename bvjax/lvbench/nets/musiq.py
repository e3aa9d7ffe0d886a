"""MUSIQ (Ke et al. 2021): how good a picture is technically, seen at three sizes at once.

Squares of 32 x 32 pixels of the picture at its own size and with longer sides of 224 and 384 pixels
become tokens: a small weight-standardised ResNet, one linear layer, and learned vectors for the
place in the picture and the size.  A transformer reads the score off a token of its own.

The published implementations fill each size's tokens up to 49 and 144 and mask the filling with
logits of -1000, whose share in a softmax is 0 in float32.  All pictures of a batch have one shape
here, so the filling is left out altogether.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bvjax.lvbench.nets import vit
from bvjax.lvbench.nets.resize import resize, taps

PATCH = 32
LONGER_SIDES = (224, 384)  # of the resized pictures, in the order of their size vectors
HEADS = 6
_EPS = 1e-6  # of layer norms, and of the first group norm
_BLOCK_EPS = 1e-4  # of the group norms in the bottleneck
_GROUPS = 32
_HIGHEST = jax.lax.Precision.HIGHEST
_ENCODER = "transformer_encoder."
_POSITION = _ENCODER + "posembed_input.position_emb"
_SCALE = _ENCODER + "scaleembed_input.scale_emb"
_NORM = _ENCODER + "encoder_norm."
_LAYER = _ENCODER + "transformer.encoderblock_{}."
_PARTS = {
    "norm1": "norm1",
    "out": "attention.out",
    "norm2": "norm2",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
_NAMES = {
    f"{part}.{kind}": f"{_LAYER}{published}.{kind}"
    for part, published in (_PARTS | {"qkv": "qkv"}).items()
    for kind in ("weight", "bias")
}


def shapes(
    width: int = 384, layers: int = 14, ratio: int = 3, stem: int = 64, grid: int = 10
) -> dict[str, tuple[int, ...]]:
    """Published names and PyTorch's shapes of a checkpoint.

    Args:
        width: of a token. ratio: how many times wider the inner layer is.
        stem: channels of the first convolution, a multiple of 32.
        grid: places along a side that have vectors of their own.
    """
    tensor_shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, norm: str, outputs: int, inputs: int, size: int) -> None:
        tensor_shapes[f"{name}.weight"] = (outputs, inputs, size, size)
        tensor_shapes[f"{norm}.weight"] = tensor_shapes[f"{norm}.bias"] = (outputs,)

    convolution("conv_root", "gn_root", stem, 3, 7)
    convolution("block1.conv1", "block1.gn1", stem, stem, 1)
    convolution("block1.conv2", "block1.gn2", stem, stem, 3)
    convolution("block1.conv3", "block1.gn3", 4 * stem, stem, 1)
    convolution("block1.conv_proj", "block1.gn_proj", 4 * stem, stem, 1)
    tensor_shapes["embedding.weight"] = (width, 4 * stem * (PATCH // 4) ** 2)
    tensor_shapes["embedding.bias"] = (width,)
    tensor_shapes[_ENCODER + "cls"] = (1, 1, width)
    tensor_shapes[_POSITION] = (1, grid**2, width)
    tensor_shapes[_SCALE] = (len(LONGER_SIDES) + 1, width)
    tensor_shapes[_NORM + "weight"] = tensor_shapes[_NORM + "bias"] = (width,)
    block = vit.block_shapes(width, ratio)
    for i in range(layers):
        for part, published in _PARTS.items():
            for kind in ("weight", "bias"):
                tensor_shapes[f"{_LAYER}{published}.{kind}".format(i)] = block[f"{part}.{kind}"]
        for name in ("query", "key", "value"):
            tensor_shapes[f"{_LAYER}attention.{name}.weight".format(i)] = (width, width)
            tensor_shapes[f"{_LAYER}attention.{name}.bias".format(i)] = (width,)
    return tensor_shapes | {"head.weight": (1, width), "head.bias": (1,)}


def prepare(tensors: Mapping[str, np.ndarray]) -> dict:
    """The parameters that `musiq` takes, from published tensors."""
    tensors_by_name, layer_tensors = {}, {}
    for name, tensor in tensors.items():
        tensor = np.asarray(tensor)
        if name.startswith(_LAYER.partition("{")[0]):
            layer_tensors[name] = tensor
        elif tensor.ndim == 4:
            tensors_by_name[name] = standardise(tensor).transpose(2, 3, 1, 0)
        else:
            tensors_by_name[name] = (
                tensor.T if name in ("embedding.weight", "head.weight") else tensor
            )
    count = sum(name.endswith("attention.query.weight") for name in layer_tensors)
    for i in range(count):
        for kind in ("weight", "bias"):
            projections = [
                layer_tensors[f"{_LAYER}attention.{name}.{kind}".format(i)]
                for name in ("query", "key", "value")
            ]
            layer_tensors[_NAMES[f"qkv.{kind}"].format(i)] = np.concatenate(projections)
    return tensors_by_name | {"layers": vit.stack_layers(layer_tensors, count, _NAMES)}


def standardise(kernel: Float[np.ndarray, "o i h w"]) -> Float[np.ndarray, "o i h w"]:
    """Weight standardisation: each output's weights to mean 0, over (their unbiased standard
    deviation + 1e-5)."""
    kernel = np.asarray(kernel, np.float64)
    kernel = kernel - kernel.mean((1, 2, 3), keepdims=True)
    deviation = kernel.std((1, 2, 3), ddof=1, keepdims=True)
    return np.float32(kernel / (deviation + 1e-5))


def musiq(params: Mapping, x: Float[Array, "b h w 3"], heads: int = HEADS) -> Float[Array, " b"]:
    """Scores of pictures in 0..1, for MUSIQ-SPAQ about 0 to 100; higher is better."""
    _, height, width, _ = x.shape
    x = (x - 0.5) * 2.0
    grid = math.isqrt(params[_POSITION].shape[1])
    tokens_by_scale = []
    sizes = [scaled(height, width, side) for side in LONGER_SIDES]
    for scale, size in enumerate([*sizes, (height, width)]):
        picture = x if scale == len(sizes) else resize(x, size, "bicubic")
        tokens = _embed(params, squares(picture))
        position_indices = hashed_positions(*(math.ceil(side / PATCH) for side in size), grid)
        tokens_by_scale.append(
            tokens + params[_POSITION][0, position_indices] + params[_SCALE][scale]
        )
    cls = jnp.broadcast_to(params[_ENCODER + "cls"], (len(x), 1, tokens_by_scale[0].shape[-1]))
    gelu = lambda y: jax.nn.gelu(y, approximate=False)
    tokens = jnp.concatenate([cls, *tokens_by_scale], axis=1)
    tokens = vit.blocks(tokens, params["layers"], heads, _EPS, gelu)
    first = vit.layer_norm(tokens[:, 0], params[_NORM + "weight"], params[_NORM + "bias"], _EPS)
    return (vit.matmul(first, params["head.weight"]) + params["head.bias"])[:, 0]


def scaled(height: int, width: int, longer: int) -> tuple[int, int]:
    """A picture's size when its longer side is `longer`; halves are rounded to even."""
    ratio = longer / max(height, width)
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def squares(x: Float[Array, "b h w c"]) -> Float[Array, "b n 32 32 c"]:
    """The picture cut up, row by row; zeros around it fill the last squares, the smaller half of
    them above and to the left."""
    b, h, w, c = x.shape
    rows, columns = math.ceil(h / PATCH), math.ceil(w / PATCH)
    missing = [(n * PATCH - size) for n, size in ((rows, h), (columns, w))]
    padding = [(extra // 2, extra - extra // 2) for extra in missing]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    x = x.reshape(b, rows, PATCH, columns, PATCH, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, rows * columns, PATCH, PATCH, c)


def hashed_positions(rows: int, columns: int, grid: int) -> Int[np.ndarray, " rows*columns"]:
    """Returns the index of each square's position embedding: its nearest neighbour on the grid."""
    row_indices, column_indices = (
        taps(grid, count, "nearest")[0][:, 0] for count in (rows, columns)
    )
    return (row_indices[:, None] * grid + column_indices).reshape(-1)


def _embed(params: Mapping, x: Float[Array, "b n 32 32 3"]) -> Float[Array, "b n d"]:
    """Tokens of squares: the stem, the bottleneck, and the linear layer."""
    b, n = x.shape[:2]
    x = _convolve(params, "conv_root", x.reshape(b * n, *x.shape[2:]), stride=2)
    x = jax.nn.relu(_group_norm(params, "gn_root", x, _EPS))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    normed = lambda norm, conv, x: _group_norm(
        params, f"block1.{norm}", _convolve(params, f"block1.{conv}", x), _BLOCK_EPS
    )
    shortcut = normed("gn_proj", "conv_proj", x)
    x = jax.nn.relu(normed("gn1", "conv1", x))
    x = jax.nn.relu(normed("gn2", "conv2", x))
    x = jax.nn.relu(normed("gn3", "conv3", x) + shortcut)
    x = vit.matmul(x.reshape(b, n, -1), params["embedding.weight"])
    return x + params["embedding.bias"]


def _convolve(params: Mapping, name: str, x: Float[Array, "p h w i"], stride: int = 1) -> Array:
    """A convolution with standardised weights, padded as TensorFlow's SAME: more at the end."""
    kernel = params[f"{name}.weight"]
    if kernel.shape[:2] == (1, 1):
        return vit.matmul(x, kernel[0, 0])
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=_HIGHEST,
    )


def _group_norm(
    params: Mapping, name: str, x: Float[Array, "p h w c"], eps: float
) -> Float[Array, "p h w c"]:
    """32 groups of neighbouring channels to mean 0 and (biased) variance 1, then scale and shift."""
    grouped = x.reshape(*x.shape[:3], _GROUPS, -1)
    grouped = grouped - grouped.mean((1, 2, 4), keepdims=True)
    variance = jnp.square(grouped).mean((1, 2, 4), keepdims=True)
    normed = (grouped * jax.lax.rsqrt(variance + eps)).reshape(x.shape)
    return normed * params[f"{name}.weight"] + params[f"{name}.bias"]
