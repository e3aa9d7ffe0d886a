"""Single pictures from captions, many at once: first frames without a video behind them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from bvjax.config import ModelConfig
from bvjax.denoiser.denoise import denoise_anchor
from bvjax.denoiser.types import ChunkInput
from bvjax.nets import vae


def generate_pictures(
    params: Any,
    model: ModelConfig,
    text: Float[Array | np.ndarray, "n t d"],
    null_text: Float[Array | np.ndarray, "t d"],
    key: Key[Array, ""],
) -> Float[np.ndarray, "n h w z"]:
    """Returns the latents of a first frame for each caption, picture i from fold_in(key, i).

    Args:
        params: of the DiT.
        text: text states of the captions.
        null_text: those of the empty caption, for guidance.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(text)))
    return np.asarray(_anchors(params, model, text, null_text, keys)[:, 0])


@functools.partial(jax.jit, static_argnames="model")
def _anchors(params, model, text, null_text, keys):
    def one(text, key):
        inputs = ChunkInput(
            chunk_id=jnp.int32(0),
            text=text,
            embedding=jnp.zeros(text.shape[-1]),
            null_text=jnp.asarray(null_text),
            key=key,
        )
        return denoise_anchor(params, model, inputs)

    return jax.vmap(one)(jnp.asarray(text), keys)


def decode_first(
    params: Any, model: ModelConfig, latents: Float[np.ndarray, "n h w z"]
) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns the pixels of first frames, by the VAE's parameters."""
    return np.asarray(_decode(params, model, latents[:, None]))[:, 0]


@functools.partial(jax.jit, static_argnames="model")
def _decode(params, model, latents):
    return vae.to_uint8(vae.decode(params, model.vae, latents))
