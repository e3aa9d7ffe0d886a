"""Which process reads which examples: all of them once, whatever their number."""

from __future__ import annotations

import grain.python as grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.errors import UserError
from bvjax.train.task import EXAMPLE
from data_pipelines.encoded.batches import batches
from data_pipelines.encoded.example import ExampleSpec
from data_pipelines.encoded.intact import DamagedExample
from data_pipelines.row_batches import row_batches, take_rows


class Numbers:
    """Examples that are their numbers; those in `damaged` cannot be read, those in `nan` are not finite."""

    title, null_text = "the numbers", np.zeros((1, 1), np.float32)
    spec = ExampleSpec(1, 1, (1, 1, 1), (1, 1))

    def __init__(self, count, damaged=(), nan=()):
        self.count, self.damaged, self.nan = count, damaged, nan

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.damaged:
            raise DamagedExample(f"file {index} is cut")
        return {"x": np.full(2, np.nan if index in self.nan else index, np.float32)}

    def name_of(self, number):
        return f"clip_{number}.npz"


@settings(max_examples=15, deadline=None)
@given(count=st.integers(4, 30), seed=st.integers(0, 9), data=st.data())
def test_processes_together_read_what_one_reads_alone(count, seed, data):
    size = data.draw(st.sampled_from([1, 2, 4]))
    stops = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
    parts = [data.draw(st.sampled_from([p for p in (1, 2, 4) if size % p == 0])) for _ in stops]
    alone = batches(Numbers(count), size, seed)
    state = alone.get_state()
    for steps, processes in zip(
        stops, parts, strict=True
    ):  # restarts with other numbers of processes
        each = size // processes
        readers = [
            batches(Numbers(count), size, seed, range(i * each, (i + 1) * each))
            for i in range(processes)
        ]
        for reader in readers:
            reader.set_state(state)
        for _ in range(steps):
            got = np.concatenate([next(reader)["x"] for reader in readers])
            np.testing.assert_array_equal(got, next(alone)["x"])
        states = [reader.get_state() for reader in readers]
        assert all(s == alone.get_state() for s in states)
        state = states[0]


def test_rows_of_a_sequence_and_of_a_function():
    examples = grain.MapDataset.range(10).map(lambda i: {"x": np.int32(i)})
    got = row_batches(examples, 4, (1, 3))
    assert len(got) == 2 and got[1]["x"].tolist() == [5, 7]
    make = take_rows(lambda index: {"x": np.arange(4) + 10 * index}, (0, 2))
    assert make(3)["x"].tolist() == [30, 32]
    assert take_rows(lambda index: {"x": index}, None)(3) == {"x": 3}


def test_damaged_examples_are_left_out_named_and_counted(caplog):
    data = batches(Numbers(6, damaged=(2,), nan=(4,)), 6, 0)
    for _ in range(3):
        batch = next(data)
        assert sorted(batch[EXAMPLE].tolist()) == [0, 1, 3, 3, 5, 5]  # the next intact one instead
        np.testing.assert_array_equal(batch["x"][:, 0], batch[EXAMPLE])
    assert data.damaged == 2
    assert "the example clip_2.npz is left out" in caplog.text and "x not finite" in caplog.text
    assert caplog.text.count("is left out") == 2  # each is told of once
    with pytest.raises(
        UserError, match="2 of the numbers are damaged, data.max_damaged is 1: clip_"
    ):
        next(batches(Numbers(6, damaged=(2,), nan=(4,)), 6, 0, max_damaged=1))
    with pytest.raises(UserError, match="none of the numbers can be used"):
        next(batches(Numbers(2, damaged=(0, 1)), 1, 0))


def test_another_number_of_examples_is_refused():
    data = batches(Numbers(6), 2, 0)
    next(data)
    state = data.get_state()
    assert state == {"next_index": 1, "examples": 6}
    with pytest.raises(UserError, match="the numbers are 7, this run was begun with 6"):
        batches(Numbers(7), 2, 0).set_state(state)
    older = batches(Numbers(7), 2, 0)
    older.set_state({"next_index": 1})  # what states were before
