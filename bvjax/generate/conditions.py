"""What the denoiser is told: text states and mean embeddings of the captions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from bvjax.config import TextConfig
from bvjax.nets import text as text_net
from bvjax.tokenizer import Tokenizer


@struct.dataclass
class Conditions:
    """Text of N chunks; rows past a caption are zeros, and the denoiser attends to them."""

    text: Float[Array, "n t d"]
    embedding: Float[Array, "n d"]  # MEANEMBED of Algorithm 1: what retrieval compares
    null_text: Float[Array, "1 t d"]  # the empty caption, for classifier-free guidance

    @property
    def num_chunks(self) -> int:
        return self.text.shape[0]


def encode_captions(
    params: Any, config: TextConfig, tokenizer: Tokenizer, captions: Sequence[str]
) -> Conditions:
    """Encodes captions, which must have no time stamps (`bvjax.story` cuts them off).

    Each goes through the encoder by itself, so that its states do not depend, to the last bit, on
    how many others there are: editing one caption leaves the rest as they were.

    Raises `UserError` for a caption that is too long for `config.max_length`.
    """
    ids, mask = tokenizer.encode([*captions, ""], config.max_length)
    rows = [_encode(params, config, ids[i : i + 1], mask[i : i + 1]) for i in range(len(ids))]
    states = jnp.concatenate([row[0] for row in rows])
    embedding = jnp.concatenate([row[1] for row in rows])
    return Conditions(text=states[:-1], embedding=embedding[:-1], null_text=states[-1:])


@functools.partial(jax.jit, static_argnames="config")
def _encode(
    params: Any, config: TextConfig, ids: Int[np.ndarray, "1 t"], mask: Bool[np.ndarray, "1 t"]
) -> tuple[Float[Array, "1 t d"], Float[Array, "1 d"]]:
    states = text_net.UMT5Encoder(config).apply({"params": params}, ids, mask)
    return states.astype(jnp.float32), text_net.mean_embedding(states, mask)
