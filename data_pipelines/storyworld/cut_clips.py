"""Encoded excerpts whose last chunk begins a new shot: what the DiT learns cuts from.

As `returns`, of stories with cuts: the two chunks that show best who and what the new shot shows, the two before the
cut, which training does not show as recent ones (`shot`), and the chunk after the cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from bvjax.config import ModelConfig
from data_pipelines.encoded.encoders import Encoders
from data_pipelines.encoded.kept import KeptExamples, open_kept
from data_pipelines.storyworld.cuts import cuts_of
from data_pipelines.storyworld.excerpts import Excerpt
from data_pipelines.storyworld.plan import make_story
from data_pipelines.storyworld.returns import draw_excerpt, encode_part

STREAM = 6  # of the random numbers of targets


def cut_excerpt(
    model: ModelConfig, split: str, index: int
) -> tuple[Excerpt, Float[np.ndarray, "c c"]]:
    """Returns the excerpt of the story of several shots `index` whose target begins a shot (`draw_excerpt`).

    It is a function of (split, index) alone.
    """
    story = make_story(index, split, shots=True)
    return draw_excerpt(model, story, [STREAM, index], lambda _: cuts_of(story))


def shots(chunks: Sequence[int], cuts: Sequence[int]) -> Float[np.ndarray, "k"]:
    """Returns for each chunk of an excerpt the place, counted from 1, of the first one there of its shot."""
    of_story = np.searchsorted(np.asarray(cuts), chunks, side="right")  # the number of its shot
    return np.array([1 + np.flatnonzero(of_story == shot)[0] for shot in of_story], np.float32)


def encode_cut(encoders: Encoders, split: str, index: int) -> dict[str, np.ndarray]:
    """Returns an excerpt (`cut_excerpt`) as an encoded example (`encoded.example`) with its extras.

    A chunk that begins a shot counts as `joined`: that it does not go on from what is before it is what it teaches.
    """
    part, relevance = cut_excerpt(encoders.model, split, index)
    example, cuts = encode_part(encoders, part, relevance), cuts_of(part.story)
    begins = np.isin(part.chunks, cuts)
    return example | {
        "joined": np.maximum(example["joined"], begins).astype(np.float32),
        "shot": shots(part.chunks, cuts),
    }


def open_cuts(weights: str | Path, root: str | Path, split: str) -> KeptExamples:
    """Returns the excerpts of a split, kept in `root`; raises as `open_kept`."""
    return open_kept(weights, root, split, encode_cut, ("text", "standalone"))
