"""A small video decoder of the kind of TAEHV (github.com/madebyollin/taehv): latents to pictures to follow.

Pure functions on the published tensors, `decoder.N.*`, whose kernels `loading.preview_decoder` puts into JAX's layout.
Three stages of three blocks, each of which sees its frame and the one before; each stage then doubles height and
width, and makes one frame or two of each.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Tensors = Mapping[str, Float[Array, "..."]]
FIRST, LAST = 1, 22  # numbers of the convolutions at the ends
BLOCKS = ((3, 4, 5), (9, 10, 11), (15, 16, 17))  # of the stages
GROW, PROJECT = (7, 13, 19), (8, 14, 20)  # after each stage: to more frames, to fewer channels


def decode(tensors: Tensors, latents: Float[Array, "l h w z"]) -> Float[Array, "f h2 w2 3"]:
    """All frames of a video from its first latent on, in [0, 1]; the first latent is one frame."""
    x = _first(tensors, latents)
    frames = 1
    for stage in range(3):
        x = _blocks(tensors, x, stage)
        grown = _conv(x, tensors[f"decoder.{GROW[stage]}.conv.weight"])
        count = grown.shape[-1] // x.shape[-1]
        frames *= count
        t, h, w, _ = x.shape
        grown = grown.reshape(t, h, w, count, -1).transpose(0, 3, 1, 2, 4)
        x = _project(tensors, grown.reshape(t * count, h, w, -1), stage)
    return _last(tensors, x)[frames - 1 :]


def still(tensors: Tensors, latents: Float[Array, "l h w z"]) -> Float[Array, "h2 w2 3"]:
    """The last frame of latents, in [0, 1], with one frame for each latent on the way: four times cheaper."""
    x = _first(tensors, latents)
    for stage in range(3):
        x = _blocks(tensors, x, stage)
        x = x[-1:] if stage == 2 else x  # nothing after the blocks sees another frame
        newest = tensors[f"decoder.{GROW[stage]}.conv.weight"][..., -x.shape[-1] :]
        x = _project(tensors, _conv(x, newest), stage)
    return _last(tensors, x)[0]


def _first(tensors: Tensors, latents: Array) -> Array:
    x = 3.0 * jnp.tanh(latents.astype(jnp.float32) / 3.0)
    return jax.nn.relu(_numbered(tensors, x, f"decoder.{FIRST}"))


def _blocks(tensors: Tensors, x: Array, stage: int) -> Array:
    """The three blocks of a stage; before the first frame is nothing."""
    for number in BLOCKS[stage]:
        before = jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
        y = jnp.concatenate([x, before], axis=-1)
        for part in (0, 2, 4):
            y = _numbered(tensors, y, f"decoder.{number}.conv.{part}")
            y = jax.nn.relu(y) if part < 4 else y
        x = jax.nn.relu(x + y)
    return x


def _project(tensors: Tensors, x: Array, stage: int) -> Array:
    """Twice as high and wide, each pixel four times, then a convolution."""
    x = x.repeat(2, axis=1).repeat(2, axis=2)
    return _conv(x, tensors[f"decoder.{PROJECT[stage]}.weight"])


def _last(tensors: Tensors, x: Array) -> Array:
    x = _numbered(tensors, jax.nn.relu(x), f"decoder.{LAST}")
    t, h, w, channels = x.shape
    patch = round((channels // 3) ** 0.5)
    x = x.reshape(t, h, w, 3, patch, patch).transpose(0, 1, 4, 2, 5, 3)
    return jnp.clip(x.reshape(t, h * patch, w * patch, 3), 0.0, 1.0)


def _numbered(tensors: Tensors, x: Array, name: str) -> Array:
    return _conv(x, tensors[f"{name}.weight"]) + tensors[f"{name}.bias"]


def _conv(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
