"""Conditions of the denoiser: text states and mean embeddings of the captions."""

from __future__ import annotations

import dataclasses
import functools
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from bvjax.config import TextConfig
from bvjax.nets import text as text_net

if TYPE_CHECKING:  # states that exist need no tokenizer, nor what it imports
    from bvjax.tokenizer import Tokenizer


@struct.dataclass
class Conditions:
    """Text of N chunks; rows past a caption are zeros, and the denoiser attends to them."""

    text: Float[Array | np.ndarray, "n t d"]
    embedding: Float[Array | np.ndarray, "n d"]  # MEANEMBED of Algorithm 1: what retrieval compares
    null_text: Float[
        Array | np.ndarray, "1 t d"
    ]  # of `guidance.negative`, for classifier-free guidance

    @property
    def num_chunks(self) -> int:
        return self.text.shape[0]

    def each(
        self,
    ) -> Iterator[tuple[Float[Array | np.ndarray, "t d"], Float[Array | np.ndarray, "d"]]]:
        """Text and embedding of one chunk after the other."""
        return zip(self.text, self.embedding, strict=True)


def alike(conditions: Conditions) -> tuple[int, ...]:
    """For each chunk a number that is the same where captions are: the first row with its embedding."""
    rows = [row.tobytes() for row in np.asarray(conditions.embedding)]
    return tuple(rows.index(row) for row in rows)


@dataclasses.dataclass(frozen=True)
class CaptionStates:
    """The encoder's output for one caption: n rows, its tokens with the end of sentence.

    Rows after them that are zeros change nothing.
    """

    states: Float[np.ndarray, "n d"]  # in the encoder's dtype
    embedding: Float[np.ndarray, "d"]  # float32, by `TextConfig.pool`


class Cache(Protocol):
    """States of captions that were encoded before, for example `bvjax.loading.text_cache`."""

    def load(self, caption: str) -> CaptionStates | None:
        """The states of a caption, bit-exact; None when they are not there."""

    def save(self, caption: str, encoded: CaptionStates) -> None:
        """Keeps the states of a caption."""


NEGATIVE = "the negative prompt (guidance.negative)"


def check_lengths(
    tokenizer: Tokenizer, captions: Mapping[str, str], config: TextConfig, negative: str = ""
) -> None:
    """Raises `UserError` naming the caption, or the negative prompt, that is too long.

    `captions` are by what messages call them, for example {"caption 3": "Pip waves."}.
    """
    named = {**captions, NEGATIVE: negative}
    tokenizer.encode(list(named.values()), config.max_length, list(named))


def numbered(captions: Sequence[str]) -> dict[str, str]:
    """{"caption 1": the first, ...}."""
    return {f"caption {number}": caption for number, caption in enumerate(captions, start=1)}


def encode_captions(
    load: Callable[[], Any],
    config: TextConfig,
    tokenizer: Tokenizer,
    captions: Sequence[str],
    negative: str = "",
    cache: Cache | None = None,
) -> Conditions:
    """Encodes captions, which must have no time stamps (`bvjax.story` cuts them off).

    Each goes through the encoder by itself, so that its states do not depend, to the last bit, on
    how many others there are: editing one caption leaves the rest as they were.

    Args:
        load: returns the encoder's parameters; called once, if a caption is not in `cache`.  They are
            freed before this returns.
        negative: the caption of the null branch (`guidance.negative`).
        cache: asked for each caption first, and given those that are new.

    Raises `UserError` for a caption that is too long for `config.max_length`, before anything is
    loaded.
    """
    check_lengths(tokenizer, numbered(captions), config, negative)
    requested = [*captions, negative]
    cached = {caption: cache.load(caption) if cache else None for caption in requested}
    known = {caption: states for caption, states in cached.items() if states is not None}
    new = [caption for caption in cached if caption not in known]
    if new:
        for caption, encoded in zip(new, _encode_each(load(), config, tokenizer, new), strict=True):
            if cache:
                cache.save(caption, encoded)
            known[caption] = encoded
        gc.collect()  # compiling leaves cycles, which would keep the parameters for a while
    return _stack([known[caption] for caption in requested], config)


def _encode_each(
    params: Any, config: TextConfig, tokenizer: Tokenizer, captions: Sequence[str]
) -> Iterator[CaptionStates]:
    ids, mask = tokenizer.encode(captions, config.max_length)
    for row, valid in zip(ids, mask, strict=True):
        states, embedding = _encode(params, config, row[None], valid[None])
        yield CaptionStates(np.asarray(states)[0, valid], np.asarray(embedding)[0])


def _stack(encoded: Sequence[CaptionStates], config: TextConfig) -> Conditions:
    """Stacks the captions' states; the last one is the null branch's."""
    text = np.zeros((len(encoded), config.max_length, config.dim), np.float32)
    for row, caption in zip(text, encoded, strict=True):
        row[: len(caption.states)] = caption.states
    embedding = np.stack([caption.embedding for caption in encoded])
    return Conditions(text=text[:-1], embedding=embedding[:-1], null_text=text[-1:])


@functools.partial(jax.jit, static_argnames="config")
def _encode(
    params: Any, config: TextConfig, ids: Int[np.ndarray, "1 t"], mask: Bool[np.ndarray, "1 t"]
) -> tuple[Float[Array, "1 t d"], Float[Array, "1 d"]]:
    params = jax.tree.map(lambda leaf: leaf.astype(config.dtype), params)
    states = text_net.UMT5Encoder(config).apply({"params": params}, ids, mask)
    return states, text_net.pooled_embedding(states, mask, config.pool)
