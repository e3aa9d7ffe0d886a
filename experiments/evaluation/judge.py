"""The judge: names the species, the colour and the place in a picture of storyworld.

It looks at pictures whose one subject ground truth knows to be in view; over several frames its
logits are averaged.  It is trained on rendered and VAE-reconstructed frames and never on generated
ones, so it cannot learn a generator's habits.
"""

from __future__ import annotations

import dataclasses
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


def init_params(key: Array) -> dict[str, Any]:
    """Fresh float32 parameters: LeCun normal kernels cut from one draw, which compiles faster."""
    shapes = jax.eval_shape(JudgeNet().init, key, jnp.zeros((1, 16, 16, 3)))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    sizes = [math.prod(leaf.shape) for path, leaf in leaves if path[-1].key == "kernel"]
    pieces = iter(jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1].tolist()))

    def fill(path, leaf):
        if path[-1].key != "kernel":
            return (jnp.ones if path[-1].key == "scale" else jnp.zeros)(leaf.shape)
        return next(pieces).reshape(leaf.shape) * math.prod(leaf.shape[:-1]) ** -0.5

    return jax.tree_util.tree_map_with_path(fill, shapes)


@jax.jit
def _logits(params: Any, frames: UInt8[Array, "n h w 3"]) -> dict[str, Array]:
    return JudgeNet().apply({"params": params}, to_float(frames))


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained judge; `about` says what made it and how accurate it is."""

    params: Any
    metadata: dict[str, Any]

    def logits(self, frames: UInt8[np.ndarray, "n h w 3"]) -> dict[str, Float[np.ndarray, "n k"]]:
        """Logits of each frame, computed in pieces of one size so that one program serves all."""
        pieces = []
        for start in range(0, len(frames), _AT_ONCE):
            piece = frames[start : start + _AT_ONCE]
            padded = np.zeros((_AT_ONCE, *piece.shape[1:]), np.uint8)
            padded[: len(piece)] = piece
            logits = jax.device_get(_logits(self.params, padded))
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
    save_tensors(path, judge.params, {"about": json.dumps(judge.metadata)})


def load_judge(path: Path = DEFAULT) -> Judge:
    """Raises `UserError` when the file is missing, damaged or of another network."""
    params = load_tensors(path, jax.eval_shape(init_params, jax.random.key(0)))
    with safe_open(path, "numpy") as file:
        metadata = parse_json((file.metadata() or {}).get("about", "{}"), f"the metadata of {path}")
    return Judge(params, metadata)
