"""Examples that are made while training goes on: their order, their files, and who makes them."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bvjax.errors import UserError
from data_pipelines.encoded import replay as replay_module
from data_pipelines.encoded.kept import KeptExamples
from data_pipelines.encoded.replay import Opening, Replay, grain_batches, pooled_batches

ENCODERS = SimpleNamespace(model=SimpleNamespace(text=SimpleNamespace(max_length=6)))


def make(encoders, split: str, index: int) -> dict[str, np.ndarray]:
    """An example that says which one it is, with a caption of `index` % 4 + 1 rows."""
    text = np.zeros((1, 6, 2), np.float16)
    text[:, : index % 4 + 1] = index + 1
    return {"number": np.full(3, index, np.float16), "text": text}


def opened(root: Path, split: str = "train") -> KeptExamples:
    return KeptExamples(root, split, ENCODERS, make, ("text",))


@given(
    size=st.integers(1, 6), extra=st.integers(0, 9), fresh=st.integers(0, 6), batch=st.integers(0, 50),
    most=st.integers(0, 40), seed=st.integers(0, 3),
)  # fmt: skip
def test_a_batch_has_the_new_examples_and_no_other_twice(size, extra, fresh, batch, most, seed):
    fresh = min(fresh, size)
    replay = Replay(size, size + extra, fresh, most, seed)
    indices = replay.indices(batch)
    assert len(indices) == size == len(set(indices.tolist()))
    assert 0 <= indices.min() and indices.max() < replay.known(batch)
    new = range(replay.known(batch - 1), replay.known(batch))
    assert set(new) <= set(indices.tolist()) and len(new) <= fresh
    assert replay.known(batch) <= max(most, size + extra) if most else True
    np.testing.assert_array_equal(
        indices, Replay(size, size + extra, fresh, most, seed).indices(batch)
    )


def test_counts_that_make_no_batch_are_refused():
    with pytest.raises(UserError, match="data.first is 3; a batch of 4 needs as many at least"):
        Replay(4, 3)
    with pytest.raises(UserError, match="data.fresh is 5; it can be 0 to 4"):
        Replay(4, 8, fresh=5)


def test_an_example_is_made_once_and_a_damaged_file_again(tmp_path):
    made = []

    def counted(encoders, split, index):
        made.append(index)
        return make(encoders, split, index)

    source = dataclasses.replace(opened(tmp_path), make=counted)
    first, again = source[5], source[5]
    assert made == [5] and source.missing(range(4, 7)) == [4, 6]
    assert first["text"].shape == (1, 6, 2) and first["text"].dtype == np.float32
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    for damage in (b"", source.path(5).read_bytes()[:40]):
        source.path(5).write_bytes(damage)
        np.testing.assert_array_equal(source[5]["number"], 5)
    assert made == [5, 5, 5]
    infinite = {"number": np.array([np.inf]), "text": make(None, "train", 5)["text"]}
    np.savez(source.path(5), **infinite)
    np.testing.assert_array_equal(source[5]["number"], 5)


def test_a_caption_longer_than_the_model_takes_is_refused(tmp_path):
    short = SimpleNamespace(model=SimpleNamespace(text=SimpleNamespace(max_length=2)))
    source = dataclasses.replace(opened(tmp_path), encoders=short)
    assert source[1]["text"].shape == (1, 2, 2)
    with pytest.raises(UserError, match=r"longer than text.max_length = 2"):
        source[3]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_batches_of_a_pool_are_those_of_the_schedule_and_resume(tmp_path, workers):
    replay = Replay(3, 4, fresh=1, seed=2)
    batches = pooled_batches(opened(tmp_path), Opening(opened, (tmp_path,)), replay, workers)
    seen = [next(batches) for _ in range(4)]
    for i, batch in enumerate(seen):
        np.testing.assert_array_equal(batch["number"][:, 0], replay.indices(i))
        assert batch["text"].shape == (3, 1, 6, 2)
    state = batches.get_state()
    batches.close()
    resumed = pooled_batches(opened(tmp_path), Opening(opened, (tmp_path,)), replay, 0)
    resumed.set_state(state)
    np.testing.assert_array_equal(next(resumed)["number"][:, 0], replay.indices(4))
    resumed.close()


def test_a_worker_opens_its_examples_once(tmp_path):
    """An opener that arrives with each task is the one that the worker knows already."""
    told = [pickle.loads(pickle.dumps(Opening(opened, (tmp_path, "train")))) for _ in range(2)]
    assert told[0] is not told[1] and replay_module._opened(told[0]) is replay_module._opened(
        told[1]
    )
    assert replay_module._opened(
        Opening(opened, (tmp_path, "heldout"))
    ) is not replay_module._opened(told[0])


def test_grain_hands_out_the_same_batches(tmp_path):
    replay = Replay(3, 4, fresh=1, seed=2)
    batches = grain_batches(opened(tmp_path), Opening(opened, (tmp_path,)), replay, 0)
    for i in range(3):
        np.testing.assert_array_equal(next(batches)["number"][:, 0], replay.indices(i))
    state = batches.get_state()
    resumed = grain_batches(opened(tmp_path), Opening(opened, (tmp_path,)), replay, 0)
    resumed.set_state(state)
    np.testing.assert_array_equal(next(resumed)["number"][:, 0], replay.indices(3))
