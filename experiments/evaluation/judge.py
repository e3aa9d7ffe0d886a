"""The judge: names the species, the colour and the place in a picture of storyworld.

It looks at pictures whose one subject ground truth knows to be in view; over several frames its
logits are averaged.  It is trained on rendered and VAE-reconstructed frames and never on generated
ones, so it cannot learn a generator's habits.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, UInt8
from safetensors import safe_open

from bvjax.errors import UserError
from bvjax.files import parse_json
from bvjax.nets.vae import to_float
from bvjax.weights import load_tensors, save_tensors
from data_pipelines.storyworld import COLOURS, PLACES, SPECIES

HEADS = {"species": SPECIES, "colour": COLOURS, "place": PLACES}
DEFAULT = Path(__file__).parent / "judge.safetensors"
_AT_ONCE = 128  # frames a call


class JudgeNet(nn.Module):
    """About 230,000 parameters; frames of any size that divides by 8."""

    widths: tuple[int, int, int] = (32, 64, 96)

    @nn.compact
    def __call__(self, frames: Float[Array, "n h w 3"]) -> dict[str, Float[Array, "n k"]]:
        """Logits per head of frames in [-1, 1]."""

        def layer(x, width, stride=1):
            x = nn.Conv(width, (3, 3), (stride, stride))(x)
            return nn.silu(nn.GroupNorm(num_groups=8)(x))

        x = rearrange(frames, "n (h a) (w b) c -> n h w (a b c)", a=2, b=2)
        x = layer(x, self.widths[0])
        for width in self.widths[1:]:
            x = layer(x, width, stride=2)
            x = x + layer(x, width)
        x = rearrange(x, "n h w d -> n (h w) d")
        # Two learned looks at where the subject is, and the mean, which knows the place.
        look = nn.softmax(nn.Dense(2, name="look")(x), axis=1)
        seen = jnp.einsum("nsl,nsd->nld", look, x).reshape(len(x), -1)
        seen = nn.silu(nn.Dense(self.widths[-1], name="seen")(jnp.hstack([seen, x.mean(1)])))
        return {head: nn.Dense(len(names), name=head)(seen) for head, names in HEADS.items()}


class AttentionNet(nn.Module):
    """About 300,000 parameters; frames of `size` pixels a side, whose patches of 8 attend to each other."""

    width: int = 96
    layers: int = 3
    heads: int = 4
    size: int = 64

    @nn.compact
    def __call__(self, frames: Float[Array, "n h w 3"]) -> dict[str, Float[Array, "n k"]]:
        """Logits per head of frames in [-1, 1]."""
        x = rearrange(frames, "n (h a) (w b) c -> n h w (a b c)", a=4, b=4)
        x = nn.gelu(nn.Dense(self.width, name="pixels")(x))
        x = nn.Conv(self.width, (3, 3), (2, 2), name="patches")(x)
        x = rearrange(x, "n h w d -> n (h w) d")
        position = self.param(
            "position", nn.initializers.normal(0.02), (1, x.shape[1] + 1, self.width)
        )
        reader = jnp.zeros((len(x), 1, self.width), x.dtype)
        x = jnp.concatenate([reader, x], axis=1) + position
        for _ in range(self.layers):
            normed = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads)(normed, normed)
            hidden = nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(hidden)
        read = nn.LayerNorm()(x[:, 0])
        return {head: nn.Dense(len(names), name=head)(read) for head, names in HEADS.items()}


# Two that have nothing in common: one may serve in choices and losses, and the other only reports.
NETS: dict[str, nn.Module] = {"conv": JudgeNet(), "attention": AttentionNet()}


def init_params(key: Array, net: str = "conv") -> dict[str, Any]:
    """Fresh float32 parameters: LeCun normal kernels cut from one draw, which compiles faster."""
    shapes = jax.eval_shape(NETS[net].init, key, jnp.zeros((1, 64, 64, 3)))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    sizes = [math.prod(leaf.shape) for path, leaf in leaves if path[-1].key == "kernel"]
    pieces = iter(jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1].tolist()))

    def fill(path, leaf):
        if path[-1].key != "kernel":
            return (jnp.ones if path[-1].key == "scale" else jnp.zeros)(leaf.shape)
        outputs = leaf.shape[1:] if path[-2].key in ("query", "key", "value") else leaf.shape[-1:]
        fan_in = math.prod(leaf.shape) // math.prod(outputs)
        return next(pieces).reshape(leaf.shape) * fan_in**-0.5

    return jax.tree_util.tree_map_with_path(fill, shapes)


@functools.partial(jax.jit, static_argnames="net")
def _logits(params: Any, frames: UInt8[Array, "n h w 3"], net: str) -> dict[str, Array]:
    return NETS[net].apply({"params": params}, to_float(frames))


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained judge; `about` says what made it and how accurate it is."""

    params: Any
    metadata: dict[str, Any]
    net: str = "conv"  # of `NETS`

    def logits(self, frames: UInt8[np.ndarray, "n h w 3"]) -> dict[str, Float[np.ndarray, "n k"]]:
        """Logits of each frame, computed in pieces of one size so that one program serves all."""
        pieces = []
        for start in range(0, len(frames), _AT_ONCE):
            piece = frames[start : start + _AT_ONCE]
            padded = np.zeros((_AT_ONCE, *piece.shape[1:]), np.uint8)
            padded[: len(piece)] = piece
            logits = jax.device_get(_logits(self.params, padded, self.net))
            pieces.append({head: rows[: len(piece)] for head, rows in logits.items()})
        return {head: np.concatenate([p[head] for p in pieces]) for head in pieces[0]}

    def verdict(
        self,
        frames: UInt8[np.ndarray, "b f h w 3"],
        subject: Bool[np.ndarray, "b f"],
        place: Bool[np.ndarray, "b f"],
    ) -> dict[str, Int[np.ndarray, "b"]]:
        """Returns what each video shows: species and colour in the frames of the mask `subject`, the place
        in those of `place`; -1 where a mask is empty."""
        videos, count = subject.shape
        flat = self.logits(frames.reshape(videos * count, *frames.shape[2:]))
        verdicts = {}
        for head, rows in flat.items():
            mask = place if head == "place" else subject
            total = np.einsum("bf,bfk->bk", mask, rows.reshape(videos, count, -1))
            verdicts[head] = np.where(mask.any(1), total.argmax(-1), -1)
        return verdicts


def save_judge(path: Path, judge: Judge) -> None:
    """One safetensors file, with `Judge.metadata` under the key `about`."""
    metadata = {"about": json.dumps(judge.metadata), "net": judge.net}
    save_tensors(path, judge.params, metadata)


def load_judge(path: Path = DEFAULT) -> Judge:
    """Raises `UserError` when the file is missing, damaged or of another network."""
    if not path.is_file():
        raise UserError(f"there is no judge {path}")
    with safe_open(path, "numpy") as file:
        stored = file.metadata() or {}
    net = stored.get("net", "conv")  # before there were two, all were that
    if net not in NETS:
        raise UserError(f"{path} is a judge of the kind {net!r}; it can be {', '.join(NETS)}")
    like = jax.eval_shape(functools.partial(init_params, net=net), jax.random.key(0))
    metadata = parse_json(stored.get("about", "{}"), f"the metadata of {path}")
    return Judge(load_tensors(path, like), metadata, net)
