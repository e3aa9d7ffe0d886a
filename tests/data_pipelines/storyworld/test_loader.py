"""Batches of encoded stories: contents, order, exact resumption."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bvjax.errors import UserError
from data_pipelines.storyworld.latents import story_file
from data_pipelines.storyworld.loader import LatentStories, latent_batches

STORIES, CHUNKS = 5, 2


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("latents")
    rng = np.random.default_rng(0)
    for number in range(STORIES):
        path = story_file(root, "train", number)
        path.parent.mkdir(exist_ok=True)
        np.savez(
            path,
            latents=np.full((1 + 2 * CHUNKS, 2, 2, 16), number, np.float16),
            text=rng.normal(size=(CHUNKS, 4, 8)).astype(np.float16),
            described=rng.normal(size=(CHUNKS, 4, 8)).astype(np.float16),
            embedding=rng.normal(size=(CHUNKS, 8)).astype(np.float32),
            relevance=np.eye(CHUNKS, dtype=np.float32),
            seen=np.zeros((CHUNKS, 1), np.float32),  # not for training: left out
        )
    return root


def who(batch) -> list[int]:
    return batch["latents"][:, 0, 0, 0, 0].astype(int).tolist()


def test_a_batch_stacks_whole_stories(root):
    batch = next(latent_batches(root, 2, seed=0))
    assert {name: (x.shape, x.dtype.name) for name, x in batch.items()} == {
        "latents": ((2, 5, 2, 2, 16), "float32"),
        "text": ((2, CHUNKS, 4, 8), "float32"),
        "described": ((2, CHUNKS, 4, 8), "float32"),
        "embedding": ((2, CHUNKS, 8), "float32"),
        "relevance": ((2, CHUNKS, CHUNKS), "float32"),
    }
    for row, number in enumerate(who(batch)):
        with np.load(story_file(root, "train", number)) as file:
            np.testing.assert_array_equal(batch["text"][row], file["text"].astype(np.float32))


def test_every_epoch_is_a_shuffle_of_its_own(root):
    iterator = latent_batches(root, STORIES, seed=0)
    epochs = [who(next(iterator)) for _ in range(4)]
    assert all(sorted(epoch) == list(range(STORIES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    first = latent_batches(root, 2, seed=0, stories=2)
    assert {n for _ in range(4) for n in who(next(first))} == {0, 1}


def test_an_iterator_resumes_exactly(root):
    whole = latent_batches(root, 2, seed=3)
    for _ in range(4):  # past the end of the first epoch
        next(whole)
    state = json.loads(json.dumps(whole.get_state()))
    tail = [who(next(whole)) for _ in range(6)]
    resumed = latent_batches(root, 2, seed=3)
    next(resumed)  # has read ahead; set_state must not hand that out
    resumed.set_state(state)
    assert [who(next(resumed)) for _ in range(6)] == tail
    other = latent_batches(root, 2, seed=4)
    other.set_state(state)
    assert [who(next(other)) for _ in range(6)] != tail


def test_too_few_or_damaged_stories_are_refused(root, tmp_path):
    with pytest.raises(UserError, match="holds 5 encoded stories, 9 are wanted"):
        LatentStories(root, stories=9)
    with pytest.raises(UserError, match="holds 0 encoded stories"):
        LatentStories(root, "heldout")
    with pytest.raises(UserError, match="a batch of 6 stories needs as many"):
        latent_batches(root, 6, seed=0)
    path = story_file(tmp_path, "train", 0)
    path.parent.mkdir()
    path.write_bytes(story_file(root, "train", 0).read_bytes()[:300])
    with pytest.raises(UserError, match="is damaged"):
        LatentStories(tmp_path)


def test_stories_of_different_lengths_are_refused(root, tmp_path):
    short = story_file(tmp_path, "train", 0)
    short.parent.mkdir()
    with np.load(story_file(root, "train", 0)) as file:
        np.savez(short, **dict(file) | {"text": file["text"][:1]})
    story_file(tmp_path, "train", 1).write_bytes(story_file(root, "train", 1).read_bytes())
    with pytest.raises(UserError, match="stories of 1 and 2 chunks"):
        LatentStories(tmp_path)
