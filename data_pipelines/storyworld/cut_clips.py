"""Encoded excerpts whose last chunk begins a new shot: what the DiT learns cuts from.

As `returns`, of stories with cuts: the two chunks that show best who and what the new shot shows, the two before the
cut, which training does not show as recent ones (`shot`), and the chunk after the cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from data_pipelines.encoded.encoders import Encoders
from data_pipelines.encoded.kept import KeptExamples, open_kept
from data_pipelines.storyworld.cuts import cuts_of
from data_pipelines.storyworld.excerpts import Excerpt, excerpt
from data_pipelines.storyworld.latents import chunk_truth, relevance_matrix
from data_pipelines.storyworld.plan import make_story
from data_pipelines.storyworld.returns import encode_part

STREAM = 6  # of the random numbers of targets


def cut_excerpt(
    model: ModelConfig, split: str, index: int
) -> tuple[Excerpt, Float[np.ndarray, "c c"]]:
    """Returns the excerpt of the story of several shots `index`, and the relevance of all its chunks for each other.

    The target is drawn from the chunks that begin a shot and have a whole past, or from all that have one where there
    are none; it is a function of (split, index) alone.
    """
    story, retrieval = make_story(index, split, shots=True), model.retrieval
    relevance = relevance_matrix(*chunk_truth(story, ChunkGrid.of(model, story.n_chunks)))
    past = retrieval.num_retrieved + retrieval.num_recent
    if story.n_chunks <= past:
        raise UserError(f"a story of {story.n_chunks} chunks has none with {past} before it")
    whole = range(past + 1, story.n_chunks + 1)
    late = [number for number in cuts_of(story) if number in whole]
    target = int(np.random.default_rng([STREAM, index]).choice(late or list(whole)))
    numbers = dict(num_retrieved=retrieval.num_retrieved, num_recent=retrieval.num_recent)
    return excerpt(story, target, relevance, **numbers), relevance


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
