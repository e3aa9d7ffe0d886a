"""Batches that are a function of their index: the simplest data source with an exact position."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from bvjax.errors import UserError
from bvjax.train.task import EXAMPLE, DataIterator

Batch = dict[str, np.ndarray]


class IndexedBatches:
    """Endless iterator over make_batch(0), make_batch(1), ...; its state is the next index.

    The batch after the one handed out is made meanwhile in one background thread.  What that thread
    has ready is not part of the state, so a resumed run sees the batches of an unbroken one.
    """

    def __init__(
        self,
        make_batch: Callable[[int], Batch],
        start: int = 0,
        on_close: Callable[[], None] = lambda: None,
    ):
        self._make_batch = make_batch
        self._next = start
        self._on_close = on_close
        self._ahead: Future[Batch] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def __iter__(self) -> IndexedBatches:
        return self

    def __next__(self) -> Batch:
        future = self._ahead or self._thread.submit(self._make_batch, self._next)
        self._ahead = self._thread.submit(self._make_batch, self._next + 1)
        batch = future.result()
        self._next += 1
        return batch

    def get_state(self) -> int:
        """Index of the batch that comes next."""
        return self._next

    def set_state(self, state: int) -> None:
        """Continues with batch `state`; raises `UserError` if it is not an index."""
        if not isinstance(state, int) or isinstance(state, bool) or state < 0:
            raise UserError(f"the data position must be a batch number, not {state!r}")
        self._next, self._ahead = state, None

    def close(self) -> None:
        """Ends the background thread, and what else makes batches; the batch being made is dropped."""
        self._on_close()
        self._thread.shutdown(wait=False, cancel_futures=True)


class Merged:
    """Endless batches that hold the arrays of several iterators' batches; its state is a state of each.

    Arrays of all of them have names of their own, but for the numbers of examples: those of the iterator `clips` are
    `example:clips`.
    """

    def __init__(self, iterators: Mapping[str, DataIterator]):
        self._iterators = dict(iterators)

    def __iter__(self) -> Merged:
        return self

    def __next__(self) -> Batch:
        return {
            f"{EXAMPLE}:{part}" if name == EXAMPLE else name: array
            for part, iterator in self._iterators.items()
            for name, array in next(iterator).items()
        }

    def name_of(self, number: int, part: str) -> str:
        """Returns the name of an example of an iterator, for messages."""
        name_of = getattr(self._iterators[part], "name_of", lambda number: f"number {number}")
        return f"{name_of(number)} of the {part}"

    def close(self) -> None:
        """Closes those that can be."""
        for iterator in self._iterators.values():
            close(iterator)

    def get_state(self) -> dict[str, Any]:
        """The position of each iterator, by its name; bytes as text."""
        states = {name: iterator.get_state() for name, iterator in self._iterators.items()}
        return {k: v.decode() if isinstance(v, bytes) else v for k, v in states.items()}

    def set_state(self, state: Any) -> None:
        """Continues each; raises `UserError` for a state of other iterators."""
        if not isinstance(state, dict) or set(state) != set(self._iterators):
            raise UserError(
                f"the data position must be one of {', '.join(self._iterators)}, not {state!r}"
            )
        for name, iterator in self._iterators.items():
            value = state[name]
            iterator.set_state(value.encode() if isinstance(value, str) else value)


def close(iterator: DataIterator) -> None:
    """Ends the threads and processes of an iterator that has any."""
    end = getattr(iterator, "close", None)
    if end is not None:
        end()
