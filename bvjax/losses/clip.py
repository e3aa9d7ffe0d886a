"""Encoded videos as training cuts them: the anchor and chunks, with captions and what they relate to."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError


@struct.dataclass
class Clip:
    """A batch of encoded videos in the `separate` layout; None: the data set does not have it."""

    anchor: Float[Array, "b 1 1 h w z"]  # first latents
    chunks: Float[Array, "b c l h w z"]
    text: Float[Array, "b c t dt"]
    embedding: Float[Array, "b c dt"]
    relevance: Float[Array, "b c c"] | None = None  # of source chunk j for target chunk i
    standalone: Float[Array, "b c t dt"] | None = None  # of captions that need no history
    joined: Float[Array, "b c"] | None = None  # 1: goes on from the chunk before it
    # Number of the first chunk of its shot; None: all are of one.
    shot: Float[Array, "b c"] | None = None


@struct.dataclass
class Pictures:
    """A batch of sets of single latents, each with a caption that needs no other."""

    latents: Float[Array, "b p h w z"]
    text: Float[Array, "b p t dt"]


def make_pictures(batch: Mapping[str, Array | np.ndarray]) -> Pictures | None:
    """The pictures of a batch (`pictures` and `picture_text`); None where it has none."""
    if "pictures" not in batch:
        return None
    latents, text = (jnp.asarray(batch[name]) for name in ("pictures", "picture_text"))
    return Pictures(latents.astype(jnp.float32), text.astype(jnp.float32))


def make_clip(batch: Mapping[str, Array | np.ndarray], grid: ChunkGrid) -> Clip:
    """Cut latents [b, 1 + C L, h, w, z] at the chunk boundaries of `grid`."""
    if grid.config.first != "separate":
        raise UserError(
            f"training cuts videos as chunk.first='separate', not {grid.config.first!r}"
        )
    arrays = {name: jnp.asarray(value) for name, value in batch.items()}
    latents, length = arrays["latents"], grid.latents_per_chunk
    if (latents.shape[1] - 1) % length:
        raise UserError(f"{latents.shape[1]} latents are not 1 + a multiple of {length}")
    body = latents[:, 1:]
    return Clip(
        anchor=latents[:, None, :1],
        chunks=body.reshape(body.shape[0], -1, length, *body.shape[2:]),
        text=arrays["text"],
        embedding=arrays["embedding"],
        relevance=arrays.get("relevance"),
        standalone=arrays.get("standalone"),
        joined=arrays.get("joined"),
        shot=arrays.get("shot"),
    )
