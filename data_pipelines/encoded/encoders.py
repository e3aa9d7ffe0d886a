"""Frames and captions to the arrays of an example, by the frozen VAE and text encoder of a weights folder."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.nets import vae
from bvjax.nets.text import UMT5Encoder, pooled_embedding
from bvjax.tokenizer import Tokenizer
from bvjax.weights import TOKENIZER, load_weights


@dataclasses.dataclass(frozen=True)
class Encoders:
    """The frozen VAE and text encoder of a weights folder, jitted."""

    model: ModelConfig
    params: dict
    tokenizer: Tokenizer

    @functools.cached_property
    def _text(self):
        return jax.jit(UMT5Encoder(self.model.text).apply)

    @functools.cached_property
    def _encode(self):
        return jax.jit(
            functools.partial(vae.encode_stream, config=self.model.vae), static_argnames="first"
        )

    @functools.cached_property
    def _encode_clips(self):
        return jax.jit(
            lambda params, frames: vae.encode(params, self.model.vae, vae.to_float(frames))
        )

    def text(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """States [n, T, Dt] and embeddings [n, Dt] (`text.pool`) of captions without time stamps."""
        ids, mask = self.tokenizer.encode(captions, self.model.text.max_length)
        states = self._text({"params": self.params["text"]}, ids, mask)
        embedding = pooled_embedding(states, mask, self.model.text.pool)
        return np.asarray(states), np.asarray(embedding)

    def clips(self, frames: UInt8[np.ndarray, "b f h w 3"]) -> Float[np.ndarray, "b l h8 w8 z"]:
        """Normalised latents of short clips of 1 + 4k frames, or of single pictures, all at once."""
        return np.asarray(self._encode_clips(self.params["vae"], frames))

    def latents(
        self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], piece: int = 96
    ) -> Float[np.ndarray, "l h w z"]:
        """Normalised latents of 1 + 4k frames, which are taken and encoded `piece` at a time.

        Raises `UserError` where there is no frame.
        """
        state, out, rest = None, [], iter(frames)
        while taken := list(itertools.islice(rest, piece if state else 1)):
            pixels = vae.to_float(jnp.asarray(np.stack(taken)[None]))
            first = state is None
            if state is None:
                state = vae.init_encode_state(self.model.vae, 1, *pixels.shape[2:4])
            state, latents = self._encode(
                self.params["vae"], state=state, frames=pixels, first=first
            )
            out.append(np.asarray(latents[0]))
        if not out:
            raise UserError("there is no frame to encode")
        return np.concatenate(out)


def load_encoders(folder: str | Path) -> Encoders:
    """VAE, text encoder and tokenizer of a weights folder."""
    model, params = load_weights(Path(folder), parts=("vae", "text"))
    return Encoders(model, params, Tokenizer(Path(folder) / TOKENIZER))


def check_arrangement(model: ModelConfig) -> None:
    """Raises `UserError` for a model whose chunks are not cut as examples have them."""
    if model.chunk.first != "separate":
        raise UserError(
            f"examples have chunks cut as chunk.first='separate', not {model.chunk.first!r}"
        )


def encode_clip(
    encoders: Encoders,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    captions: Sequence[str],
    standalone: Sequence[str] | None = None,
    dtype: str = "float16",
) -> dict[str, np.ndarray]:
    """The arrays of an example (`example`).

    Args:
        frames: the first one, then those of as many chunks as there are captions.
        captions: one for each chunk, without time stamps.
        standalone: captions that need no earlier chunk to be understood, where there are any.
        dtype: of latents and text states.

    Raises `UserError` for a caption that is too long.
    """
    states, embedding = encoders.text(captions)
    example: dict[str, np.ndarray] = {
        "latents": encoders.latents(frames).astype(dtype),
        "text": states.astype(dtype),
        "embedding": embedding.astype(np.float32),
    }
    if standalone is not None:
        example["standalone"] = encoders.text(standalone)[0].astype(dtype)
    return example
