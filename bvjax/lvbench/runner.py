"""Measures videos: each is decoded once for all metrics that it still lacks, and scores are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from bvjax.errors import UserError
from bvjax.lvbench.metric import Measurement, Metric, Scores
from bvjax.lvbench.pictures import Pictures
from bvjax.lvbench.store import Store, score_key
from bvjax.lvbench.video import Block, Video, blocks, find_videos, name_of

BLOCK = 16  # frames decoded at a time
AHEAD = 2  # blocks decoded before they are asked for
UNFINISHED = 4  # videos whose last batches may wait for the next videos' frames


@dataclasses.dataclass(frozen=True)
class Task:
    """What to measure and where to keep it.

    weights: content hashes of the weights of each metric, {metric: {weights: sha256}}.
    shard: (i, n): this process takes every n-th video, from the i-th on.
    """

    videos: pathlib.Path  # folder, or one file
    store: Store
    metrics: Sequence[Metric]
    segments: int
    weights: Mapping[str, Mapping[str, str]]
    shard: tuple[int, int] = (0, 1)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A video with all its scores; `failures` says in a sentence each what could not be measured."""

    video: Video | None  # None: the file is broken
    name: str
    scores: Mapping[str, Scores] = dataclasses.field(default_factory=dict)
    failures: tuple[str, ...] = ()


class Progress(Protocol):
    """Follows the work, for a progress bar."""

    def start(self, frames: int, videos: int) -> None:
        """So many frames of so many videos are going to be decoded."""

    def video(self, name: str) -> None:
        """The next video."""

    def advance(self, frames: int) -> None:
        """So many frames are done."""

    def problem(self, sentence: str) -> None:
        """A video, or part of it, cannot be measured."""


def measure(task: Task, progress: Progress) -> None:
    """Measures what is missing of this shard's videos, into the store.

    A video that cannot be measured does not stop the others: it is told to `progress`, and
    `collect` tells it again.
    """
    index, count = task.shard
    task.store.begin_shard(index, count)
    failed: dict[str, str] = {}

    def fail(name: str, error: UserError) -> None:
        failed[name] = str(error)
        progress.problem(f"{name}: {error}")

    work = []
    for path in find_videos(task.videos)[index::count]:
        try:
            video = task.store.video(path, task.videos)
        except UserError as error:
            fail(name_of(path, task.videos), error)
            continue
        for sentence in _too_short(task, video):
            progress.problem(sentence)
        missing = [m for m in task.metrics if _lacks(task, video, m)]
        pictures = _cut(task, video, 1) and task.store.pictures(video, task.segments) is None
        if missing or pictures:
            work.append((video, missing, pictures))
    progress.start(sum(video.frames for video, _, _ in work), len(work))
    waiting: deque[_Unfinished] = deque()

    def finish_oldest() -> None:
        unfinished = waiting.popleft()
        try:
            unfinished.finish(task)
        except UserError as error:
            fail(unfinished.video.name, error)

    for video, missing, pictures in work:
        progress.video(video.name)
        try:
            waiting.append(_decode(task, video, missing, pictures, progress))
        except UserError as error:
            fail(video.name, error)
            continue
        if len(waiting) > UNFINISHED:
            finish_oldest()
    while waiting:
        finish_oldest()
    task.store.end_shard(index, count, failed)


def collect(task: Task) -> tuple[list[Measured], list[str]]:
    """All videos of all shards as the store knows them, and what other shards still owe."""
    failed = task.store.failures(task.shard[1])
    found, owed = [], []
    for path in find_videos(task.videos):
        name = name_of(path, task.videos)
        failures = [f"{name}: {failed[name]}"] if name in failed else []
        try:
            video = task.store.video(path, task.videos)
        except UserError as error:
            found.append(Measured(None, name, failures=tuple(failures) or (f"{name}: {error}",)))
            continue
        scores = {}
        for metric in task.metrics:
            stored = task.store.load(video, _key(task, video, metric))
            if stored is not None:
                scores[metric.name] = stored
            elif not failures and _cut(task, video, metric.least_frames):
                owed.append(f"{metric.name} of {name}")
        failures += _too_short(task, video)
        found.append(Measured(video, name, scores, tuple(failures)))
    return found, owed


@dataclasses.dataclass
class _Unfinished:
    """A video whose frames have all been handed over."""

    video: Video
    measurements: Sequence[tuple[Metric, Measurement]]
    pictures: Pictures | None

    def finish(self, task: Task) -> None:
        """Waits for the scores and keeps them."""
        for metric, measurement in self.measurements:
            task.store.save(self.video, _key(task, self.video, metric), measurement.scores())
        if self.pictures is not None:
            task.store.save_pictures(self.video, self.pictures.jpegs())


def _decode(
    task: Task, video: Video, missing: Sequence[Metric], pictures: bool, progress: Progress
) -> _Unfinished:
    begun = [(metric, metric.begin(video, task.segments)) for metric in missing]
    shown = Pictures(video, task.segments) if pictures else None
    frames = 0
    with contextlib.closing(_ahead(blocks(video, BLOCK))) as decoded:
        for block in decoded:
            for _, measurement in begun:
                measurement.add(block)
            if shown:
                shown.add(block)
            frames += len(block.frames)
            progress.advance(len(block.frames))
    if frames != video.frames:  # the file was replaced while it was read
        raise UserError(f"{video.frames} frames were counted but {frames} decoded")
    return _Unfinished(video, begun, shown)


def _too_short(task: Task, video: Video) -> Iterator[str]:
    for metric in task.metrics:
        if not _cut(task, video, metric.least_frames):
            yield (
                f"{video.name} has {video.frames} frames; {metric.name} needs at least "
                f"{metric.least_frames} in each of {task.segments} chunks"
            )


def _cut(task: Task, video: Video, least: int) -> bool:
    return video.frames // task.segments >= least


def _lacks(task: Task, video: Video, metric: Metric) -> bool:
    long_enough = _cut(task, video, metric.least_frames)
    return long_enough and task.store.load(video, _key(task, video, metric)) is None


def _key(task: Task, video: Video, metric: Metric) -> dict[str, Any]:
    weights = task.weights.get(metric.name, {})
    return score_key(video, metric.name, metric.settings, task.segments, weights)


def _ahead(source: Iterable[Block]) -> Iterator[Block]:
    """The same blocks, made by a thread of their own while earlier ones are being measured."""
    ready: queue.Queue[tuple[Block | None, BaseException | None]] = queue.Queue(AHEAD)
    stop = threading.Event()

    def put(block: Block | None, error: BaseException | None) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((block, error), timeout=0.1)
                return True
        return False

    def run() -> None:
        try:
            for block in source:
                if not put(block, None):
                    return
            put(None, None)
        except BaseException as error:  # raised again where the blocks are used
            put(None, error)

    thread = threading.Thread(target=run, daemon=True, name="decoder")
    thread.start()
    try:
        while True:
            block, error = ready.get()
            if error is not None:
                raise error
            if block is None:
                return
            yield block
    finally:
        stop.set()
        thread.join()
