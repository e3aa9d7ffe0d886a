"""Excerpts: which chunks of a story a target needs, and that their latents are the whole story's."""

from __future__ import annotations

import numpy as np
import pytest

from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError
from data_pipelines.encoded.encoders import load_encoders
from data_pipelines.storyworld import make_story, render
from data_pipelines.storyworld.excerpts import (
    RUN_IN,
    Excerpt,
    encode_excerpt,
    excerpt,
    excerpt_relevance,
    joined,
    returning_targets,
)
from data_pipelines.storyworld.latents import chunk_truth, relevance_matrix


def relevance(rows: dict[tuple[int, int], float], chunks: int = 8) -> np.ndarray:
    matrix = np.zeros((chunks, chunks), np.float32)
    for (target, source), value in rows.items():
        matrix[target - 1, source - 1] = value
    return matrix


def test_an_excerpt_is_the_relevant_chunks_the_recent_ones_and_the_target():
    story = make_story(0, n_chunks=8)
    scores = relevance({(8, 2): 1.0, (8, 4): 0.3, (8, 5): 0.3, (8, 6): 2.0})
    # 6 and 7 are recent whatever they are worth; of 4 and 5, which are worth the same, the later one.
    assert excerpt(story, 8, scores).chunks == (2, 5, 6, 7, 8)
    assert excerpt(story, 8, scores, num_retrieved=1).chunks == (2, 6, 7, 8)
    assert excerpt(story, 8, scores, num_retrieved=0, num_recent=1).chunks == (7, 8)
    assert excerpt(story, 3, scores).chunks == (1, 2, 3)
    assert excerpt(story, 1, scores).chunks == (1,)
    with pytest.raises(UserError, match="target is 9; this story has the chunks 1 to 8"):
        excerpt(story, 9, scores)


def test_targets_that_return_are_those_that_only_older_chunks_show():
    scores = relevance({(6, 1): 1.0, (7, 1): 1.0, (7, 6): 1.0, (8, 2): 0.1})
    assert returning_targets(scores) == [6]


@pytest.fixture(scope="module")
def encoders():
    return load_encoders("bvjax/assets/mini")


@pytest.mark.slow
def test_latents_of_an_excerpt_are_those_of_the_whole_story(encoders):
    story = make_story(3, n_chunks=5)
    grid, part = ChunkGrid.of(encoders.model, 5), Excerpt(story, (2, 4, 5))
    whole = encoders.latents(render(story, fps=8))
    expected = np.concatenate(
        [whole[:1], *(whole[slice(*grid.latent_range(chunk))] for chunk in part.chunks)]
    )
    latents = encode_excerpt(encoders, part)
    assert latents.shape == expected.shape
    np.testing.assert_array_equal(latents[0], expected[0])
    errors = np.sqrt(np.mean((latents - expected) ** 2, axis=(1, 2, 3))) / expected.std()
    assert errors.max() < 0.01 and RUN_IN == 20  # the first latent after a run-in: 0.5 %
    # Without a run-in the latents are others: what the bound above is worth.
    cold = encoders.latents(render(story, range(grid.frame_range(4)[0] - 1, 161), fps=8))[1:]
    assert np.sqrt(np.mean((cold[0] - expected[9]) ** 2)) / expected.std() > 0.1


@pytest.mark.slow
def test_an_excerpt_that_begins_the_story_has_no_error(encoders):
    story = make_story(4, n_chunks=2)
    whole = encoders.latents(render(story, fps=8))
    np.testing.assert_allclose(
        encode_excerpt(encoders, Excerpt(story, (1, 2))), whole, rtol=0, atol=1e-5
    )


def test_relevance_of_an_excerpt_is_that_of_its_chunks(encoders):
    story = make_story(5)
    grid = ChunkGrid.of(encoders.model, 15)
    whole = relevance_matrix(*chunk_truth(story, grid))
    part = Excerpt(story, (1, 4, 9))
    np.testing.assert_array_equal(
        excerpt_relevance(part, whole), whole[np.ix_([0, 3, 8], [0, 3, 8])]
    )


def test_chunks_are_joined_where_none_is_left_out():
    assert joined((1, 2, 6, 7, 8)).tolist() == [1, 1, 0, 1, 1]
    assert joined((3, 5, 9, 10)).tolist() == [0, 0, 0, 1]
