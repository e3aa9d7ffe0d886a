"""Text batches: what they hold, and that they are a function of the index."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.tokenizer import Tokenizer
from data_pipelines.storyworld import corpus, world
from data_pipelines.storyworld.plan import make_story
from data_pipelines.storyworld.text_data import LABELS, TextBatches, label_rows


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    path = tmp_path_factory.mktemp("sp") / "tokenizer.model"
    corpus.train_tokenizer(corpus.caption_corpus(range(60), "train"), path, 1024)
    return TextBatches(Tokenizer(path), max_length=48)


def test_label_rows():
    caption = "A red fox called Pip wearing a hat waits at Maple Turn, a meadow."
    rows = label_rows([caption, "Rain."])
    result = [[label for label, x in zip(LABELS, row, strict=True) if x] for row in rows]
    assert result == [
        [
            ("names", "Pip"),
            ("toponyms", "Maple Turn"),
            ("species", "fox"),
            ("colours", "red"),
            ("accessories", "hat"),
            ("places", "meadow"),
        ],
        [("weathers", "rain")],
    ]
    assert "none" not in [value for _, value in LABELS] and len(set(LABELS)) == len(LABELS)


def test_shapes_and_contents(batches):
    batch = batches.batch(3, 2)
    assert {name: (x.shape, x.dtype.name) for name, x in batch.items()} == {
        "ids": ((2, 15, 48), "int32"),
        "mask": ((2, 15, 48), "bool"),
        "labels": ((2, 15, len(LABELS)), "float32"),
        "name_labels": ((2, 15, len(world.NAMES)), "float32"),
        "toponym_labels": ((2, 15, len(world.TOPONYMS)), "float32"),
    }
    story = make_story(7, "train")  # the second of the batch
    text = batches.tokenizer.decode(batch["ids"][1, 4])
    assert story.captions[4].lower().startswith(text[:-1])
    first = batch["labels"][1, 0]
    said = {value for (_, value), x in zip(LABELS, first, strict=True) if x}
    assert {story.subjects[story.chunks[0].subjects[0]].species, story.places[0].toponym} <= said
    names = {n for n, x in zip(world.NAMES, batch["name_labels"][1, 0], strict=True) if x}
    assert names and names <= said and names <= {s.name for s in story.subjects}
    toponyms = {t for t, x in zip(world.TOPONYMS, batch["toponym_labels"][1, 0], strict=True) if x}
    assert toponyms == {story.places[0].toponym}


def test_a_batch_is_a_function_of_its_index(batches):
    again = pickle.loads(pickle.dumps(batches))
    first, second = batches.batch(5, 2), again.batch(5, 2)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert not np.array_equal(first["ids"], batches.batch(6, 2)["ids"])
    # Stories of consecutive batches are consecutive: nothing is skipped or seen twice.
    whole = batches.batch(1, 4)["ids"]
    np.testing.assert_array_equal(
        whole, np.concatenate([batches.batch(i, 2)["ids"] for i in (2, 3)])
    )


def test_splits_differ(batches):
    other = TextBatches(batches.tokenizer, 48, "heldout")
    assert not np.array_equal(batches.batch(0, 1)["ids"], other.batch(0, 1)["ids"])


def test_too_short_a_limit_is_refused(batches):
    with pytest.raises(UserError, match="tokens, the limit is 6"):
        TextBatches(batches.tokenizer, 6).batch(0, 1)
