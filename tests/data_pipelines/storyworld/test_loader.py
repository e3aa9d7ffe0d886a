"""Batches of encoded stories: contents, order, exact resumption."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.errors import UserError
from bvjax.files import npy_bytes
from data_pipelines.storyworld.latents import TRAINED_ON, claim, read_story, story_file
from data_pipelines.storyworld.loader import (
    LatentStories,
    check_latents,
    check_stories,
    latent_batches,
    null_text,
)

STORIES, CHUNKS = 5, 2
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


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
        one = {name: file[name][:1] for name in ("text", "described", "embedding", "seen")}
        np.savez(short, **dict(file) | one | {"relevance": file["relevance"][:1, :1]})
    story_file(tmp_path, "train", 1).write_bytes(story_file(root, "train", 1).read_bytes())
    with pytest.raises(UserError, match="stories of 1 and 2 chunks"):
        LatentStories(tmp_path)


def test_what_is_no_encoded_story_is_said_to_be_none(root, tmp_path):
    """A file of another kind is not called damaged."""
    path = story_file(tmp_path, "train", 0)
    path.parent.mkdir()
    np.savez(path, images=np.zeros(3), text=np.zeros(3))
    with pytest.raises(UserError) as error:
        LatentStories(tmp_path)
    told = str(error.value)
    assert "is not an encoded story: it has no latents, described, embedding" in told
    assert "damaged" not in told and "delete" not in told


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "latents",
            np.zeros((4, 2, 2, 16)),
            r"latents \[4, 2, 2, 16\] and text \[2, 4, 8\] do not",
        ),
        ("text", np.full((CHUNKS, 4, 8), np.nan), "text holds what is no finite number"),
        ("embedding", np.zeros((CHUNKS, 9)), r"embedding is \[2, 9\], not \[2, 8\]"),
        ("relevance", np.zeros((CHUNKS, 3)), r"relevance is \[2, 3\], not \[2, 2\]"),
        ("seen", np.zeros(5), r"seen is \[5\] for 2 chunks"),
        ("described", np.full((CHUNKS, 4, 8), "x"), "described holds what is no finite number"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(root, tmp_path, name, value, message):
    path = story_file(tmp_path, "train", 0)
    path.parent.mkdir()
    with np.load(story_file(root, "train", 0)) as file:
        np.savez(path, **dict(file) | {name: value})
    with pytest.raises(UserError, match=f"is not an encoded story: {message}"):
        LatentStories(tmp_path)


def test_stories_of_another_model_are_refused(root, tmp_path, tiny):
    path = story_file(tmp_path, "train", 1)
    path.parent.mkdir()
    with np.load(story_file(root, "train", 0)) as file:
        np.savez(path, **dict(file) | {"latents": np.zeros((5, 4, 4, 16))})
    shutil.copy(story_file(root, "train", 0), path.parent)
    with pytest.raises(UserError, match="are of different models: story_00001.npz has latents"):
        LatentStories(tmp_path)
    path.unlink()
    batch, null = next(latent_batches(root, 2, seed=0)), np.zeros((4, 8), np.float32)
    fitting = tiny.variant(chunk={"height": 16, "width": 16}, text={"max_length": 4, "dim": 8})
    check_stories(batch, null, fitting, root)
    for other in (tiny.model, tiny.variant(chunk={"height": 16, "width": 16})):
        with pytest.raises(UserError, match=f"the stories in {root} are of another model: "):
            check_stories(batch, null, other, root)


@pytest.mark.parametrize("content", [b"", b"x" * 100, npy_bytes(np.zeros(3)), None])
def test_text_states_of_the_empty_caption_are_checked(tmp_path, content):
    path = tmp_path / "null_text.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="null_text.npy") as error:
        null_text(tmp_path)
    assert "\n" not in str(error.value)
    path.write_bytes(npy_bytes(np.ones((2, 3), np.float16)))
    assert null_text(tmp_path).dtype == np.float32


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), how=st.sampled_from(["flip", "cut", "replace"]))
def test_any_bytes_are_a_story_or_refused_in_one_sentence(root, data, how):
    content = story_file(root, "train", 0).read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    if how == "flip":
        content = content[:at] + bytes([content[at] ^ 1 << data.draw(st.integers(0, 7))])
        content += story_file(root, "train", 0).read_bytes()[at + 1 :]
    else:
        content = content[:at] if how == "cut" else data.draw(st.binary(max_size=80))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "story_00000.npz"
        path.write_bytes(content)
        try:
            assert set(read_story(path)) >= set(TRAINED_ON)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(content=st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_manifest_is_that_of_these_weights_or_refused(tiny, content):
    with tempfile.TemporaryDirectory() as folder:
        claim(Path(folder), tiny.weights, tiny.model)
        check_latents(folder, tiny.weights, tiny.model)
        (Path(folder) / "manifest.json").write_bytes(content)
        for check in (
            lambda: check_latents(folder, tiny.weights, tiny.model),
            lambda: claim(Path(folder), tiny.weights, tiny.model),
        ):
            with pytest.raises(UserError) as error:
                check()
            assert folder in str(error.value) and "\n" not in str(error.value)
