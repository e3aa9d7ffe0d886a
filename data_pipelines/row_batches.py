"""The rows of batches that one process reads of an endless sequence of examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipelines.counter_source import close

if TYPE_CHECKING:
    import grain.python as grain


def row_batches(
    examples: grain.MapDataset, size: int, rows: Sequence[int] | None = None
) -> grain.MapDataset:
    """The batches of `size` neighbouring examples, of each of them `rows` alone (None: all).

    Example `b size + r` of the sequence is row r of batch b, however many processes share out the rows: together they
    read each example once, also when a run goes on with another number of them.
    """
    if rows is None or tuple(rows) == tuple(range(size)):
        return examples.batch(size, drop_remainder=True)
    chosen = tuple(rows)

    def batch(index: int) -> dict[str, np.ndarray]:
        parts = [examples[index * size + row] for row in chosen]
        return {name: np.stack([part[name] for part in parts]) for name in parts[0]}

    import grain.python as grain  # here, because `share` and `take_rows` need no Grain

    return grain.MapDataset.range(len(examples) // size).map(batch)


def take_rows(
    make_batch: Callable[[int], Mapping[str, Any]], rows: Sequence[int] | None
) -> Callable[[int], dict[str, Any]]:
    """`make_batch` with `rows` of its batches alone (None: all), for data that is made whole and cheaply."""
    if rows is None:
        return lambda index: dict(make_batch(index))
    chosen = list(rows)
    return lambda index: {name: array[chosen] for name, array in make_batch(index).items()}


class Share:
    """`rows` of the batches of an endless iterator, whose position is that of the whole batches."""

    def __init__(self, batches: Any, rows: Sequence[int]):
        self._batches, self._rows = batches, list(rows)

    def __iter__(self) -> Share:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return {name: array[self._rows] for name, array in next(self._batches).items()}

    def close(self) -> None:
        """Closes the iterator, where it can be."""
        close(self._batches)

    def get_state(self) -> Any:
        """The position of the whole batches."""
        return self._batches.get_state()

    def set_state(self, state: Any) -> None:
        """Goes on at a position of the whole batches."""
        self._batches.set_state(state)


def share(batches: Any, size: int, rows: Sequence[int] | None) -> Any:
    """`rows` of an iterator's batches of `size`; the iterator itself where that is all of them."""
    if rows is None or tuple(rows) == tuple(range(size)):
        return batches
    return Share(batches, rows)
