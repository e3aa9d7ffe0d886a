"""An encoded example and a source of examples: all that training asks of a data set.

An example is one clip of C chunks in the arrangement chunk.first="separate", as a dictionary of float32 arrays:

    latents    [1 + C L, h, w, z]  normalised latents: one of the first frame, then L of each chunk
    text       [C, T, Dt]          text states of each chunk's caption; rows past the caption are zeros
    embedding  [C, Dt]             the mean of the caption's states, which retrieval compares

and, where the data set has them (`EXTRAS`):

    relevance  [C, C]              ground-truth score of source chunk j (column) for target chunk i (row), 0 or more
    standalone [C, T, Dt]          text states of captions that need no earlier chunk to be understood
    joined     [C]                 1 where a chunk goes on from the one before it (the first: from the first frame),
                                   0 where chunks between them were left out
    shot       [C]                 number of the first chunk of its shot, counted from 1; all 1 in a single take

Sources of clips that are encoded when they are asked for, of sharded files or of files on another machine need no
more than `Source`: batches, shuffling and exact resumption are made from random access (`batches`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
from jaxtyping import Float

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.finite import is_finite

REQUIRED = ("latents", "text", "embedding")
EXTRAS = ("relevance", "standalone", "joined", "shot")
TEXTS = ("text", "standalone")  # text states, which may be stored without the zeros that pad them


@dataclasses.dataclass(frozen=True)
class ExampleSpec:
    """The sizes that all examples of a source have, so that any of them fit into one batch.

    A data set whose clips differ in their number of chunks is several sources, one for each number.
    """

    chunks: int  # C
    latents_per_chunk: int  # L
    latent: tuple[int, int, int]  # h, w, z
    text: tuple[int, int]  # T, Dt
    extras: tuple[str, ...] = ()  # of `EXTRAS`, those that every example has

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every array of an example, by name."""
        chunks, text = self.chunks, (self.chunks, *self.text)
        every = {
            "latents": (1 + chunks * self.latents_per_chunk, *self.latent),
            "text": text,
            "embedding": (chunks, self.text[1]),
            "relevance": (chunks, chunks),
            "standalone": text,
            "joined": (chunks,),
            "shot": (chunks,),
        }
        return {name: every[name] for name in (*REQUIRED, *self.extras)}

    @staticmethod
    def of(model: ModelConfig, chunks: int, extras: Iterable[str] = ()) -> ExampleSpec:
        """The sizes that a model trains on; raises `UserError` for an extra that there is not."""
        grid = ChunkGrid.of(model)
        return ExampleSpec(
            chunks=chunks,
            latents_per_chunk=grid.latents_per_chunk,
            latent=(*grid.latent_size, model.dit.in_channels),
            text=(model.text.max_length, model.text.dim),
            extras=known_extras(extras),
        )


class Source(Protocol):
    """Random access to examples of one size.

    `title` is how messages call it, for example "the examples in data/latents/train". Item i is the same whenever
    it is asked for, from whatever thread.
    """

    @property
    def title(self) -> str: ...

    @property
    def spec(self) -> ExampleSpec: ...

    @property
    def null_text(self) -> Float[np.ndarray, "t dt"]:
        """Text states of the empty caption, made by the encoder that made the others."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of `spec`, float32."""


def known_extras(names: Iterable[str]) -> tuple[str, ...]:
    """The names in the order of `EXTRAS`; raises `UserError` for one that is not there."""
    requested = tuple(names)
    for name in requested:
        if name not in EXTRAS:
            raise UserError(f"an example has no extra {name!r}; the extras are {', '.join(EXTRAS)}")
    return tuple(name for name in EXTRAS if name in requested)


def check_example(
    arrays: Mapping[str, np.ndarray], where: str, own: Iterable[str] = ()
) -> ExampleSpec:
    """The sizes of an example, its text at the length that it has.

    Args:
        arrays: of one example, and perhaps others.
        where: whose they are; messages begin with it.
        own: names of arrays of the data set's own, which are checked to be numbers for each chunk.

    Raises:
        UserError: an array is missing, does not fit the others or has values that are not finite.
    """
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise UserError(f"{where} is not an encoded example: it has no {', '.join(missing)}")
    text, latents = arrays["text"], arrays["latents"]
    chunks = len(text) if text.ndim == 3 else 0
    if not chunks or latents.ndim != 4 or len(latents) <= chunks or (len(latents) - 1) % chunks:
        raise UserError(
            f"{where} is not an encoded example: latents {list(latents.shape)} and text "
            f"{list(text.shape)} do not belong together"
        )
    spec = ExampleSpec(
        chunks=chunks,
        latents_per_chunk=(len(latents) - 1) // chunks,
        latent=latents.shape[1:],
        text=text.shape[1:],
        extras=known_extras(name for name in EXTRAS if name in arrays),
    )
    wrong = _wrong(arrays, spec, own)
    if wrong:
        raise UserError(f"{where} is not an encoded example: {wrong}")
    return spec


def _wrong(arrays: Mapping[str, np.ndarray], spec: ExampleSpec, own: Iterable[str]) -> str | None:
    shapes = spec.shapes()
    for name in (*shapes, *own):
        if name not in arrays:
            continue
        array, shape = arrays[name], shapes.get(name)
        if array.dtype.kind not in "fi" or not is_finite(array):
            return f"{name} holds what is no finite number"
        if name != "latents" and array.shape[:1] != (spec.chunks,):
            return f"{name} is {list(array.shape)} for {spec.chunks} chunks"
        if name == "standalone" and array.ndim == 3:  # of a length of its own until it is padded
            shape = (spec.chunks, array.shape[1], spec.text[1])
        if shape is not None and array.shape != shape:
            return f"{name} is {list(array.shape)}, not {list(shape)}"
    return None


def trimmed(states: Float[np.ndarray, "c t dt"]) -> Float[np.ndarray, "c s dt"]:
    """Text states without the rows that are zeros in all captions at their end, one row at least."""
    used = np.flatnonzero(states.any(axis=(0, 2)))
    return states[:, : used[-1] + 1 if used.size else 1]


def padded(states: Float[np.ndarray, "c s dt"], length: int) -> Float[np.ndarray, "c t dt"]:
    """Text states with rows of zeros up to `length`, which must not be shorter than they are."""
    return np.pad(states, ((0, 0), (0, length - states.shape[1]), (0, 0)))
