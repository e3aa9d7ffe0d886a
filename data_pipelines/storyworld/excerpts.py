"""Excerpts of stories: of a minute only the chunks that one target needs.

A subject that comes back is learnt from the chunk in which it does, the chunks that show what it looks like, and the
recent ones. The others between them cost rendering and encoding and teach nothing. Since the VAE is causal and a
chunk in the middle of a video is coded in the state that the frames before it left, each piece is rendered and encoded
from `RUN_IN` frames before it on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError
from bvjax.losses.history import revisiting
from data_pipelines.encoded.encoders import Encoders
from data_pipelines.storyworld.renderer import render
from data_pipelines.storyworld.world import Story

# Frames before a piece that are encoded and thrown away, a multiple of the VAE's temporal factor. With the weights of
# `mini` the latents are then those of the whole story but for 0.2 % of their standard deviation (12 frames: 1.3 %).
RUN_IN = 20
RETURN_MARGIN = 0.2  # of relevance, below the weight of a shared place


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """Chunks of a story, counted from 1 and ascending; the last is the target."""

    story: Story
    chunks: tuple[int, ...]


def excerpt(
    story: Story,
    target: int,
    relevance: Float[np.ndarray, "c c"],
    *,
    num_retrieved: int = 2,
    num_recent: int = 2,
) -> Excerpt:
    """Returns the chunks that chunk `target` needs: the most relevant of those behind it, the recent ones, itself.

    Of equally relevant chunks the later ones are taken. Near the beginning of a story there are fewer.

    Args:
        target: counted from 1.
        relevance: of source chunk j for target chunk i, counted from 0.
    """
    if not 1 <= target <= story.n_chunks:
        raise UserError(f"target is {target}; this story has the chunks 1 to {story.n_chunks}")
    recent = range(max(1, target - num_recent), target)
    older = range(1, recent.start if recent else target)
    best = sorted(older, key=lambda chunk: (relevance[target - 1, chunk - 1], chunk))
    best = best[len(best) - min(num_retrieved, len(best)) :]
    return Excerpt(story, (*sorted(best), *recent, target))


def returning_targets(relevance: Float[np.ndarray, "c c"], num_recent: int = 2) -> list[int]:
    """Chunks, counted from 1, that show somebody or a place that some older chunk shows better than the recent ones."""
    returns = revisiting(jnp.asarray(relevance)[None], num_recent, RETURN_MARGIN)[0]
    return (1 + np.flatnonzero(returns)).tolist()


def encode_excerpt(encoders: Encoders, part: Excerpt) -> Float[np.ndarray, "l h w z"]:
    """Returns latents of frame 0 and of the chunks of an excerpt, [1 + C L, h, w, z], as the whole story has them.

    The error is that of starting the VAE `RUN_IN` frames early instead of at frame 0.
    """
    grid = ChunkGrid.of(encoders.model, part.story.n_chunks)
    chunk, latents = encoders.model.chunk, []
    size = dict(height=chunk.height, width=chunk.width, fps=chunk.fps)
    if part.chunks[0] != 1:
        latents.append(encoders.latents(render(part.story, [0], **size)))
    for first, last in _runs(part.chunks):
        start, stop = grid.frame_range(first)[0], grid.frame_range(last)[1]
        before = min(RUN_IN, start - 1)
        frames = render(part.story, range(start - before - 1, stop), **size)
        # The frame that the encoder starts with has a latent of its own, which is that of the video's first frame
        # only where the run-in reaches it.
        drop = 0 if first == 1 else 1 + before // encoders.model.vae.temporal_factor
        latents.append(encoders.latents(frames)[drop:])
    return np.concatenate(latents)


def excerpt_relevance(
    part: Excerpt, relevance: Float[np.ndarray, "c c"]
) -> Float[np.ndarray, "k k"]:
    """Returns the relevance of the chunks of an excerpt for each other, out of that of the whole story."""
    rows = np.array(part.chunks) - 1
    return relevance[np.ix_(rows, rows)]


def joined(chunks: Sequence[int]) -> Float[np.ndarray, "k"]:
    """Returns 1 for the chunks of an excerpt that follow the one before (the first: frame 0), and 0 for the others."""
    return (np.diff(chunks, prepend=0) == 1).astype(np.float32)


def _runs(chunks: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of neighbouring chunks."""
    runs: list[tuple[int, int]] = []
    for chunk in chunks:
        if runs and runs[-1][1] == chunk - 1:
            runs[-1] = runs[-1][0], chunk
        else:
            runs.append((chunk, chunk))
    return runs
