"""Folders of encoded examples: contents, order, exact resumption, what is refused."""

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
from bvjax.train.task import EXAMPLE
from data_pipelines.encoded import example
from data_pipelines.encoded.batches import batches, check_fits
from data_pipelines.encoded.example import REQUIRED, ExampleSpec, known_extras
from data_pipelines.encoded.folder import (
    example_path,
    open_folder,
    read_example,
    read_null_text,
    write_example,
    write_null_text,
)
from data_pipelines.encoded.manifest import check_weights, claim
from data_pipelines.storyworld.latents import EXTRAS

FIXTURE = Path(__file__).parents[2] / "fixtures" / "encoded_stories"
CLIPS, CHUNKS, ROWS, WIDTH = 5, 2, 4, 8
COMMAND = "python -m data_pipelines.storyworld.encode"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def arrays(number: int) -> dict[str, np.ndarray]:
    """An example with a number in its latents; its captions have 3 of the 4 rows."""
    rng = np.random.default_rng(number)
    text = rng.normal(size=(2, CHUNKS, ROWS, WIDTH)).astype(np.float16)
    text[:, :, 3:] = 0
    return {
        "latents": np.full((1 + 2 * CHUNKS, 2, 2, 16), number, np.float16),
        "text": text[0],
        "standalone": text[1],
        "embedding": rng.normal(size=(CHUNKS, WIDTH)).astype(np.float32),
        "relevance": np.eye(CHUNKS, dtype=np.float32),
        "seen": np.zeros((CHUNKS, 1), np.float32),  # of the data set's own: not for training
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("latents")
    for number in range(CLIPS):
        write_example(example_path(root, "train", f"clip_{number}"), arrays(number))
    write_null_text(root, np.ones((ROWS, WIDTH), np.float32))
    return root


@pytest.fixture
def alone(root, tmp_path):
    """A folder with the empty caption, and a function that writes an .npz file into its split."""
    shutil.copy(root / "null_text.npy", tmp_path)

    def put(name: str, **changed) -> Path:
        path = example_path(tmp_path, "train", name)
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **arrays(0) | changed)
        return path

    return tmp_path, put


def who(batch) -> list[int]:
    return batch["latents"][:, 0, 0, 0, 0].astype(int).tolist()


def test_a_batch_stacks_whole_examples(root):
    """Text states are padded again, and what nobody asked for is left out."""
    batch = next(batches(open_folder(root, "train", EXTRAS), 2, seed=0))
    assert {name: (x.shape, x.dtype.name) for name, x in batch.items()} == {
        "latents": ((2, 5, 2, 2, 16), "float32"),
        "text": ((2, CHUNKS, ROWS, WIDTH), "float32"),
        "embedding": ((2, CHUNKS, WIDTH), "float32"),
        "relevance": ((2, CHUNKS, CHUNKS), "float32"),
        "standalone": ((2, CHUNKS, ROWS, WIDTH), "float32"),
        EXAMPLE: ((2,), "int32"),
    }
    for row, number in enumerate(who(batch)):
        for name in ("text", "standalone", "embedding"):
            np.testing.assert_array_equal(batch[name][row], arrays(number)[name].astype(np.float32))
    assert set(next(batches(open_folder(root, "train"), 2, seed=0))) == {*REQUIRED, EXAMPLE}


def test_text_states_are_stored_without_their_padding(root, tmp_path):
    path = example_path(root, "train", "clip_0")
    with np.load(path) as file:
        assert file["text"].shape == file["standalone"].shape == (CHUNKS, 3, WIDTH)
    assert read_example(path)["text"].shape == (CHUNKS, 3, WIDTH)
    np.testing.assert_array_equal(read_example(path, ROWS)["text"], arrays(0)["text"])
    with pytest.raises(UserError, match="of another model: text has 3 rows a caption, not 2"):
        read_example(path, 2)
    write_null_text(tmp_path, np.ones((2, WIDTH), np.float32))
    shutil.copytree(root / "train", tmp_path / "train")
    with pytest.raises(UserError, match=r"of different models: text states \[3, 8\] and \[2, 8\]"):
        open_folder(tmp_path, "train")


def test_every_epoch_is_a_shuffle_of_its_own(root):
    iterator = batches(open_folder(root, "train"), CLIPS, seed=0)
    epochs = [who(next(iterator)) for _ in range(4)]
    assert all(sorted(epoch) == list(range(CLIPS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    first = batches(open_folder(root, "train", examples=2), 2, seed=0)
    assert {n for _ in range(4) for n in who(next(first))} == {0, 1}


def test_an_iterator_resumes_exactly(root):
    source = open_folder(root, "train")
    whole = batches(source, 2, seed=3)
    for _ in range(4):  # past the end of the first epoch
        next(whole)
    state = json.loads(json.dumps(whole.get_state()))
    tail = [who(next(whole)) for _ in range(6)]
    resumed = batches(source, 2, seed=3)
    next(resumed)  # has read ahead; set_state must not hand that out
    resumed.set_state(state)
    assert [who(next(resumed)) for _ in range(6)] == tail
    other = batches(source, 2, seed=4)
    other.set_state(state)
    assert [who(next(other)) for _ in range(6)] != tail


def test_too_few_or_damaged_examples_are_refused(root, alone):
    with pytest.raises(UserError, match="holds 5 encoded examples, 9 are wanted$"):
        open_folder(root, "train", examples=9)
    with pytest.raises(UserError) as error:
        open_folder(root, "heldout", command=COMMAND)
    assert str(error.value) == (
        f"{root / 'heldout'} holds 0 encoded examples, 1 are wanted; make them with {COMMAND} "
        f"--out {root} --split heldout"
    )
    with pytest.raises(UserError, match="a batch of 6 examples needs as many encoded ones; the ex"):
        batches(open_folder(root, "train"), 6, seed=0)
    folder, put = alone
    path = put("a")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="is damaged"):
        open_folder(folder, "train")


def test_examples_of_different_lengths_are_refused(alone):
    folder, put = alone
    names = ("text", "standalone", "embedding", "seen")
    short = {name: arrays(0)[name][:1] for name in names}
    put("a", **short, relevance=np.ones((1, 1)))
    put("b")
    with pytest.raises(UserError, match="examples of 1 and 2 chunks; one folder holds"):
        open_folder(folder, "train")


def test_what_is_no_encoded_example_is_said_to_be_none(alone):
    """A file of another kind is not called damaged."""
    folder, put = alone
    np.savez(put("a"), images=np.zeros(3), text=np.zeros(3))
    with pytest.raises(UserError) as error:
        open_folder(folder, "train")
    told = str(error.value)
    assert told.endswith("is not an encoded example: it has no latents, embedding")
    assert "damaged" not in told and "delete" not in told


def test_an_extra_that_examples_lack_is_named(root, alone):
    folder, put = alone
    made = arrays(0)
    del made["relevance"]
    np.savez(put("a"), **made)
    open_folder(folder, "train", ["standalone"])
    with pytest.raises(UserError, match="a.npz has no relevance; leave it out of data.extras"):
        open_folder(folder, "train", EXTRAS)
    with pytest.raises(UserError, match="no extra 'depth'; the extras are relevance, standalone"):
        open_folder(root, "train", ["depth"])
    assert known_extras(["standalone", "relevance"]) == EXTRAS


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
        ("standalone", np.full((CHUNKS, 4, 8), "x"), "standalone holds what is no finite number"),
        ("standalone", np.zeros((CHUNKS, 4, 9)), r"standalone is \[2, 4, 9\], not \[2, 4, 8\]"),
    ],
)
def test_arrays_that_do_not_belong_together_are_neither_read_nor_written(
    alone, name, value, message
):
    folder, put = alone
    path = put("a", **{name: value})
    with pytest.raises(UserError, match=f"is not an encoded example: {message}.*; if it is to be"):
        read_example(path, own=["seen"])
    if name in (*REQUIRED, *EXTRAS):
        with pytest.raises(UserError, match=f"a.npz is not an encoded example: {message}"):
            open_folder(folder, "train")
    with pytest.raises(UserError, match=message):
        write_example(folder / "new.npz", arrays(0) | {name: value}, own=["seen"])
    assert not (folder / "new.npz").exists()


def test_examples_of_another_model_are_refused(root, alone, tiny):
    folder, put = alone
    put("a")
    put("b", latents=np.zeros((5, 4, 4, 16)))
    with pytest.raises(UserError, match="are of different models: b.npz has latents"):
        open_folder(folder, "train")
    source = open_folder(root, "train", EXTRAS)
    fitting = tiny.variant(
        chunk={"height": 16, "width": 16}, text={"max_length": ROWS, "dim": WIDTH}
    )
    check_fits(source, fitting)
    assert source.spec == ExampleSpec.of(fitting, CHUNKS, EXTRAS)
    for other in (tiny.model, tiny.variant(chunk={"height": 16, "width": 16})):
        with pytest.raises(UserError, match=f"the examples in {root}/train are of another model: "):
            check_fits(source, other)


def test_trimmed_states_are_padded_to_what_they_were():
    states = np.zeros((2, 5, 3))
    assert example.trimmed(states).shape == (2, 1, 3)
    states[1, 2, 0], states[0, 0] = -1.0, 2.0
    assert example.trimmed(states).shape == (2, 3, 3)
    np.testing.assert_array_equal(example.padded(example.trimmed(states), 5), states)


@pytest.mark.parametrize("content", [b"", b"x" * 100, npy_bytes(np.zeros(3)), None])
def test_text_states_of_the_empty_caption_are_checked(tmp_path, content):
    path = tmp_path / "null_text.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="null_text.npy") as error:
        read_null_text(tmp_path)
    assert "\n" not in str(error.value)
    path.write_bytes(npy_bytes(np.ones((2, 3), np.float16)))
    assert read_null_text(tmp_path).dtype == np.float32


def test_folders_that_were_made_before_still_open(tiny):
    """Their captions that stand alone are called `described`, and their text states are padded."""
    model = tiny.variant(chunk={"fps": 2}, text={"max_length": 192})
    source = open_folder(FIXTURE, "train", EXTRAS)
    check_fits(source, model)
    assert len(source) == 2 and source.spec.chunks == 2
    for number in range(2):
        with np.load(FIXTURE / "train" / f"story_{number:05d}.npz") as file:
            stored = {name: array.astype(np.float32) for name, array in file.items()}
        stored["standalone"] = stored.pop("described")
        assert stored["text"].shape == stored["standalone"].shape == (2, 192, 16)
        for name, array in source[number].items():
            np.testing.assert_array_equal(array, stored[name])
    facts = json.loads((FIXTURE / "manifest.json").read_text())
    with tempfile.TemporaryDirectory() as folder:  # no key that came later is asked for
        claim(Path(folder), tiny.weights, tiny.model)
        now = json.loads((Path(folder) / "manifest.json").read_text())
        kept = {name: now[name] for name in facts}
        (Path(folder) / "manifest.json").write_text(json.dumps(kept))
        check_weights(folder, tiny.weights, tiny.model, "")
        claim(Path(folder), tiny.weights, tiny.model)
        assert json.loads((Path(folder) / "manifest.json").read_text()) == kept


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), how=st.sampled_from(["flip", "cut", "replace"]))
def test_any_bytes_are_an_example_or_refused_in_one_sentence(root, data, how):
    whole = example_path(root, "train", "clip_0").read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if how == "flip":
        flipped = bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))])
        content = whole[:at] + flipped + whole[at + 1 :]
    else:
        content = whole[:at] if how == "cut" else data.draw(st.binary(max_size=80))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.npz"
        path.write_bytes(content)
        try:
            assert set(read_example(path)) >= set(REQUIRED)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(content=st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_manifest_is_that_of_these_weights_or_refused(tiny, content):
    with tempfile.TemporaryDirectory() as folder:
        claim(Path(folder), tiny.weights, tiny.model)
        check_weights(folder, tiny.weights, tiny.model, "")
        (Path(folder) / "manifest.json").write_bytes(content)
        for check in (
            lambda: check_weights(folder, tiny.weights, tiny.model, ""),
            lambda: claim(Path(folder), tiny.weights, tiny.model),
        ):
            with pytest.raises(UserError) as error:
                check()
            assert folder in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_a_manifest_says_how_to_make_it(tmp_path, tiny):
    with pytest.raises(UserError, match="manifest.json is missing; make it$"):
        check_weights(tmp_path, tiny.weights, tiny.model, "; make it")
