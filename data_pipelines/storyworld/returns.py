"""Encoded excerpts in which somebody comes back: what the DiT learns the use of its memory from.

An example is a clip of few chunks (`excerpts`): the two of a story that show best who and what its last chunk shows,
the two before that one, and the last itself. To training it is a story of that many chunks. The latents are those of
the whole story, at a third of its rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.story import split_times
from data_pipelines.encoded.encoders import Encoders
from data_pipelines.encoded.kept import KeptExamples, open_kept
from data_pipelines.storyworld.excerpts import (
    Excerpt,
    encode_excerpt,
    excerpt,
    excerpt_relevance,
    joined,
    returning_targets,
)
from data_pipelines.storyworld.latents import (
    chunk_truth,
    relevance_matrix,
    standalone_captions,
)
from data_pipelines.storyworld.plan import make_story
from data_pipelines.storyworld.world import Story

STREAM = 4  # of the random numbers of targets


def draw_excerpt(
    model: ModelConfig,
    story: Story,
    seed: Sequence[int],
    wanted: Callable[[Float[np.ndarray, "c c"]], Iterable[int]],
) -> tuple[Excerpt, Float[np.ndarray, "c c"]]:
    """Returns an excerpt of a story, and the relevance of all chunks of the story for each other.

    The target is drawn from the wanted chunks that have a whole past, or from all that have one where there are none.

    Args:
        seed: of the draw.
        wanted: numbers of chunks, by the relevance.
    """
    retrieval = model.retrieval
    relevance = relevance_matrix(*chunk_truth(story, ChunkGrid.of(model, story.n_chunks)))
    past = retrieval.num_retrieved + retrieval.num_recent
    if story.n_chunks <= past:
        raise UserError(f"a story of {story.n_chunks} chunks has none with {past} before it")
    whole = range(past + 1, story.n_chunks + 1)
    targets = [number for number in wanted(relevance) if number in whole]
    target = int(np.random.default_rng(seed).choice(targets or list(whole)))
    numbers = dict(num_retrieved=retrieval.num_retrieved, num_recent=retrieval.num_recent)
    return excerpt(story, target, relevance, **numbers), relevance


def return_excerpt(
    model: ModelConfig, split: str, index: int
) -> tuple[Excerpt, Float[np.ndarray, "c c"]]:
    """Returns the excerpt of story `index` whose target shows that somebody or a place returns (`draw_excerpt`).

    It is a function of (split, index) alone.
    """
    num_recent = model.retrieval.num_recent
    return draw_excerpt(
        model,
        make_story(index, split),
        [STREAM, index],
        lambda relevance: returning_targets(relevance, num_recent),
    )


def encode_return(encoders: Encoders, split: str, index: int) -> dict[str, np.ndarray]:
    """Returns an excerpt (`return_excerpt`) as an encoded example (`encoded.example`) with its extras."""
    return encode_part(encoders, *return_excerpt(encoders.model, split, index))


def encode_part(
    encoders: Encoders, part: Excerpt, relevance: Float[np.ndarray, "c c"]
) -> dict[str, np.ndarray]:
    """Returns an excerpt as an encoded example with its extras; `relevance` is of all chunks of its story."""
    story, rows = part.story, [chunk - 1 for chunk in part.chunks]
    text, embedding = encoders.text([split_times(story.captions[row])[0] for row in rows])
    standalone, _ = encoders.text([standalone_captions(encoders, story)[row] for row in rows])
    return {
        "latents": encode_excerpt(encoders, part).astype(np.float16),
        "text": text.astype(np.float16),
        "embedding": embedding.astype(np.float32),
        "standalone": standalone.astype(np.float16),
        "relevance": excerpt_relevance(part, relevance).astype(np.float32),
        "joined": joined(part.chunks),
    }


def open_returns(weights: str | Path, root: str | Path, split: str) -> KeptExamples:
    """Returns the excerpts of a split, kept in `root`; raises as `open_kept`."""
    return open_kept(weights, root, split, encode_return, ("text", "standalone"))
