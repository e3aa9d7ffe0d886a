"""An endless order of examples that are made while training goes on: each new one, and older ones again.

Making an example costs more than a step of training can wait for, and showing it once would waste it. Batch i has
`fresh` examples that no batch had before it, and the others are drawn from all that there were until then. They are
made ahead of the training by a pool of processes (`pooled_batches`), or by Grain's (`grain_batches`).
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized

import jax
import numpy as np
from jaxtyping import Int

from bvjax.errors import UserError
from bvjax.train.task import EXAMPLE, DataIterator
from data_pipelines.counter_source import IndexedBatches
from data_pipelines.encoded.kept import Arrays, KeptExamples

AHEAD = 16  # batches whose new examples are in the making
ENDLESS = 2**40


@dataclasses.dataclass(frozen=True)
class Opening:
    """Recipe by which a process opens the examples for itself: a function of a module with its arguments.

    Two that say the same are equal, also after they were sent to another process, which a `functools.partial` is
    not: so a worker opens its examples, and compiles their encoders, once.
    """

    function: Callable[..., KeptExamples]
    arguments: tuple[Hashable, ...]

    def __call__(self) -> KeptExamples:
        return self.function(*self.arguments)


@dataclasses.dataclass(frozen=True)
class Replay:
    """The examples of each batch, a function of the batch's number alone.

    Args:
        size: examples of a batch.
        first: examples that are there before the first batch.
        fresh: examples that every batch adds.
        most: beyond so many no new ones are added; 0 = always.
        seed: of the draw.
    """

    size: int
    first: int
    fresh: int = 1
    most: int = 0
    seed: int = 0

    def __post_init__(self):
        """Raises `UserError` for counts that make no batch."""
        if self.first < self.size:
            raise UserError(
                f"data.first is {self.first}; a batch of {self.size} needs as many at least"
            )
        if not 0 <= self.fresh <= self.size:
            raise UserError(f"data.fresh is {self.fresh}; it can be 0 to {self.size}")

    def known(self, batch: int) -> int:
        """Returns how many examples batch `batch` and those before it use: 0 to `known` - 1."""
        known = self.first + (batch + 1) * self.fresh
        return min(known, max(self.most, self.first)) if self.most else known

    def indices(self, batch: int) -> Int[np.ndarray, "b"]:
        """Returns the examples of a batch, each once."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, batch]))
        before, known = self.known(batch - 1), self.known(batch)
        new = np.arange(before, known)
        return np.concatenate([new, rng.choice(before, self.size - len(new), replace=False)])


@functools.lru_cache(maxsize=4)
def _opened(opening: Opening) -> KeptExamples:
    return opening()


def _write(opening: Opening, index: int) -> None:
    source = _opened(opening)
    if source.missing([index]):
        source.write(index)


def _begin_worker(started: Synchronized[int]) -> None:
    """Leaves the accelerator, and the step of training, to the process that trains."""
    jax.config.update("jax_platforms", "cpu")
    os.nice(5)
    if hasattr(os, "sched_setaffinity"):  # a core each, so that XLA starts one thread in each
        with started.get_lock():
            number, started.value = started.value, started.value + 1
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


def pooled_batches(
    source: KeptExamples, opening: Opening, replay: Replay, workers: int
) -> IndexedBatches:
    """Endless batches whose missing examples `workers` processes make ahead; its state is the next batch's number.

    Args:
        source: the examples.
        opening: opens them in a worker.
        replay: which examples are in which batch.
        workers: 0 makes them in the thread that prepares batches.
    """
    pool = None
    if workers:
        processes = get_context("spawn")
        pool = ProcessPoolExecutor(
            workers, processes, initializer=_begin_worker, initargs=(processes.Value("i", 0),)
        )
    waiting: dict[int, Future] = {}

    def make(batch: int) -> Arrays:
        indices = replay.indices(batch)
        if pool is not None:
            soon = range(replay.known(batch), replay.known(batch + AHEAD))
            for index in source.missing([*map(int, indices), *soon]):
                if index not in waiting:
                    waiting[index] = pool.submit(_write, opening, index)
            for index in indices:
                if int(index) in waiting:
                    waiting.pop(int(index)).result()
        return _numbered(source, indices)

    def close() -> None:
        if pool is not None:  # else what is in the making is waited for when Python ends
            pool.shutdown(wait=False, cancel_futures=True)

    return IndexedBatches(make, on_close=close)


def grain_batches(
    source: KeptExamples, opening: Opening, replay: Replay, workers: int
) -> DataIterator:
    """The same batches through Grain, each made by one of its `workers` processes (0: threads)."""
    import grain.python as grain  # here, because the pool needs none

    def here(batch: int) -> Arrays:
        return _numbered(source, replay.indices(batch))

    make = functools.partial(_batch, opening, replay) if workers else here
    dataset = grain.MapDataset.range(ENDLESS).map(make)
    iterator = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    if workers:
        iterator = iterator.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(iterator)


def _batch(opening: Opening, replay: Replay, batch: int) -> Arrays:
    return _numbered(_opened(opening), replay.indices(batch))


def _numbered(source: KeptExamples, indices: Int[np.ndarray, "b"]) -> Arrays:
    """Examples with their numbers."""
    return source.batch(indices) | {EXAMPLE: np.asarray(indices, np.int32)}


LOADERS = {"pool": pooled_batches, "grain": grain_batches}
