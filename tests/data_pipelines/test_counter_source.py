"""Batches by index: order, exact position, errors of the background thread."""

from __future__ import annotations

import numpy as np
import pytest

from bvjax.errors import UserError
from data_pipelines.counter_source import IndexedBatches, Merged


def make(index):
    if index == 7:
        raise OSError("disk")
    return {"x": np.array([index])}


def take(source, count):
    return [int(next(source)["x"][0]) for _ in range(count)]


def test_order_and_state():
    source = IndexedBatches(make)
    assert take(source, 3) == [0, 1, 2] and source.get_state() == 3
    other = IndexedBatches(make)
    take(other, 1)  # has batch 1 ready; set_state must not hand it out
    other.set_state(3)
    assert take(other, 2) == take(source, 2) == [3, 4]
    assert iter(source) is source
    source.close()


def test_start_and_errors_reach_the_caller():
    source = IndexedBatches(make, start=5)
    assert take(source, 2) == [5, 6]
    with pytest.raises(OSError, match="disk"):
        next(source)


def test_merged_batches_keep_the_numbers_of_every_part():
    class Named(IndexedBatches):
        def name_of(self, number):
            return f"clip_{number}"

    number = lambda start: lambda index: {"example": np.array([start + index])}
    merged = Merged({"clips": Named(number(7)), "pictures": IndexedBatches(number(40))})
    batch = next(merged)
    assert {name: int(x[0]) for name, x in batch.items()} == {
        "example:clips": 7,
        "example:pictures": 40,
    }
    assert merged.name_of(7, "clips") == "clip_7 of the clips"
    assert merged.name_of(40, "pictures") == "number 40 of the pictures"
    merged.close()


@pytest.mark.parametrize("state", [-1, "3", None, True, {"index": 3}])
def test_a_state_that_is_no_index_is_refused(state):
    with pytest.raises(UserError, match="must be a batch number"):
        IndexedBatches(make).set_state(state)
