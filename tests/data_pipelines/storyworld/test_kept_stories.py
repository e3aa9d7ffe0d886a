"""Pictures and returns of storyworld as encoded examples: whose latents, whose captions."""

from __future__ import annotations

import numpy as np
import pytest

from bvjax.chunking import ChunkGrid
from bvjax.story import split_times
from data_pipelines.encoded.encoders import load_encoders
from data_pipelines.storyworld import make_story
from data_pipelines.storyworld.excerpts import returning_targets
from data_pipelines.storyworld.latents import chunk_truth, relevance_matrix
from data_pipelines.storyworld.pictures import FIRST_FRAMES, STEADY, encode_pictures, open_pictures
from data_pipelines.storyworld.recast import pictures, settled_clip
from data_pipelines.storyworld.returns import encode_return

MINI = "bvjax/assets/mini"
SIZE = dict(split="train", height=64, width=64, fps=8)


@pytest.fixture(scope="module")
def encoders():
    return load_encoders(MINI)


def test_a_clip_is_a_function_of_its_index_and_starts_at_frame_0():
    small = SIZE | dict(height=32, width=32)
    frames, caption = settled_clip(2, 16, **small)
    again, same = settled_clip(2, 16, **small)
    assert frames.shape == (33, 32, 32, 3) and caption == same
    np.testing.assert_array_equal(frames, again)
    assert settled_clip(3, 16, **small)[1] != caption


@pytest.mark.slow
def test_pictures_are_first_frames_and_steady_latents_with_their_captions(encoders, tmp_path):
    source = open_pictures(MINI, tmp_path, "train")
    example = source[1]
    latents, text = example["pictures"], example["picture_text"]
    assert latents.shape == (FIRST_FRAMES + STEADY, 8, 8, 32) and text.shape == (16, 64, 128)
    stills = pictures(1, FIRST_FRAMES, **SIZE)
    np.testing.assert_allclose(
        latents[3], encoders.latents(stills[3].pixels[None])[0], atol=5e-3, rtol=1e-3
    )
    clip, caption = settled_clip(1, 4 * STEADY, **SIZE)
    np.testing.assert_allclose(
        latents[FIRST_FRAMES:], encoders.latents(clip)[-STEADY:], atol=5e-3, rtol=1e-3
    )
    for row, expected in ((3, stills[3].caption), (-1, caption)):
        np.testing.assert_allclose(text[row], encoders.text([expected])[0][0], atol=5e-3)
    again = encode_pictures(encoders, "train", 1)
    np.testing.assert_array_equal(again["pictures"], latents)


@pytest.mark.slow
def test_the_last_chunk_of_a_return_shows_what_only_its_oldest_chunks_show(encoders):
    example = encode_return(encoders, "train", 0)
    story = make_story(0, "train")
    grid = ChunkGrid.of(encoders.model, story.n_chunks)
    relevance = relevance_matrix(*chunk_truth(story, grid))
    captions = encoders.text([split_times(c)[0] for c in story.captions])[0]
    distance = np.abs(captions[:, None] - example["text"][None]).max(axis=(2, 3))
    chunks = distance.argmin(axis=0)  # 0-based, of the story
    assert distance.min(axis=0).max() < 1e-2 and (np.diff(chunks) > 0).all() and len(chunks) == 5
    assert chunks[-1] + 1 in returning_targets(relevance)
    np.testing.assert_allclose(example["relevance"], relevance[np.ix_(chunks, chunks)], rtol=1e-6)
    old, recent = example["relevance"][-1, :2], example["relevance"][-1, 2:4]
    assert old.max() > recent.max()
    assert example["latents"].shape == (41, 8, 8, 32)
