"""CLIP's image towers (Radford et al. 2021) and LAION's linear head for the taste of people."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bvjax.errors import UserError
from bvjax.lvbench.nets import vit

SIDE = 224  # pixels of the square pictures that both published towers take
_EPS = 1e-5
_TOWER = "visual."
_BLOCK = _TOWER + "transformer.resblocks.{}."
_NAMES = {
    "norm1.weight": _BLOCK + "ln_1.weight",
    "norm1.bias": _BLOCK + "ln_1.bias",
    "qkv.weight": _BLOCK + "attn.in_proj_weight",
    "qkv.bias": _BLOCK + "attn.in_proj_bias",
    "out.weight": _BLOCK + "attn.out_proj.weight",
    "out.bias": _BLOCK + "attn.out_proj.bias",
    "norm2.weight": _BLOCK + "ln_2.weight",
    "norm2.bias": _BLOCK + "ln_2.bias",
    "up.weight": _BLOCK + "mlp.c_fc.weight",
    "up.bias": _BLOCK + "mlp.c_fc.bias",
    "down.weight": _BLOCK + "mlp.c_proj.weight",
    "down.bias": _BLOCK + "mlp.c_proj.bias",
}


@dataclasses.dataclass(frozen=True)
class Tower:
    """Sizes of an image tower; grid: patches along a side; features: of its answer."""

    width: int
    layers: int
    patch: int
    grid: int
    features: int


TOWERS = {"b32": Tower(768, 12, 32, 7, 512), "l14": Tower(1024, 24, 14, 16, 768)}


def shapes(tower: str | Tower = "b32") -> dict[str, tuple[int, ...]]:
    """Published names and PyTorch's shapes of the image half of a checkpoint.

    Args:
        tower: "b32" (ViT-B/32), "l14" (ViT-L/14), or other sizes.

    Raises:
        UserError: an unknown name.
    """
    if isinstance(tower, str):
        if tower not in TOWERS:
            raise UserError(f"there is no CLIP tower {tower!r}; there are {', '.join(TOWERS)}")
        tower = TOWERS[tower]
    width = tower.width
    tensor_shapes = {
        "class_embedding": (width,),
        "positional_embedding": (1 + tower.grid**2, width),
        "proj": (width, tower.features),
        "conv1.weight": (width, 3, tower.patch, tower.patch),
        "ln_pre.weight": (width,),
        "ln_pre.bias": (width,),
    }
    tensor_shapes = {_TOWER + name: shape for name, shape in tensor_shapes.items()}
    for i in range(tower.layers):
        tensor_shapes |= {_NAMES[name].format(i): s for name, s in vit.block_shapes(width).items()}
    return tensor_shapes | {_TOWER + "ln_post.weight": (width,), _TOWER + "ln_post.bias": (width,)}


def prepare(tensors: Mapping[str, np.ndarray]) -> dict:
    """The parameters that `clip` takes, from published tensors."""
    count = sum(name.endswith("attn.in_proj_weight") for name in tensors)
    plain = {
        name.removeprefix(_TOWER): np.asarray(tensor)
        for name, tensor in tensors.items()
        if "resblocks" not in name
    }
    plain["conv1.weight"] = vit.patch_kernel(plain["conv1.weight"])
    return plain | {"layers": vit.stack_layers(tensors, count, _NAMES)}


def clip(
    params: Mapping, x: Float[Array, "b h w 3"], heads: int | None = None
) -> Float[Array, "b features"]:
    """The picture's place in the space that CLIP shares with text, not normalised.

    Args:
        x: square pictures of the tower's own size (224), normalised
            (`official.preprocess.clip_input`).
        heads: 64 features each by default.
    """
    kernel = params["conv1.weight"]
    width, patch = kernel.shape[1], math.isqrt(kernel.shape[0] // 3)
    tokens = vit.matmul(vit.patches(x, patch), kernel)
    first = jnp.broadcast_to(params["class_embedding"], (len(x), 1, width))
    tokens = jnp.concatenate([first, tokens], axis=1) + params["positional_embedding"]
    tokens = vit.layer_norm(tokens, params["ln_pre.weight"], params["ln_pre.bias"], _EPS)
    tokens = vit.blocks(tokens, params["layers"], heads or width // 64, _EPS, _quick_gelu)
    cls = vit.layer_norm(tokens[:, 0], params["ln_post.weight"], params["ln_post.bias"], _EPS)
    return vit.matmul(cls, params["proj"])


def prepare_head(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters that `aesthetic` takes, from the published head's `weight` and `bias`."""
    return {"weight": np.asarray(tensors["weight"]).T, "bias": np.asarray(tensors["bias"])}


def aesthetic(head: Mapping, features: Float[Array, "b features"]) -> Float[Array, " b"]:
    """LAION's score of pictures by their ViT-L/14 features, about 1 to 10; higher is better."""
    length = jnp.linalg.norm(features, axis=-1, keepdims=True)
    unit = features / jnp.maximum(length, 1e-12)
    return (vit.matmul(unit, head["weight"]) + head["bias"])[:, 0]


def _quick_gelu(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)
