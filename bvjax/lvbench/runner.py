"""Measures videos: each is decoded once for all metrics that it still lacks, and scores are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from bvjax.errors import UserError
from bvjax.lvbench.metric import Measurement, Metric, Scores
from bvjax.lvbench.pictures import Pictures
from bvjax.lvbench.store import Store, score_key
from bvjax.lvbench.video import Block, Video, blocks, find_videos, name_of, unfinished_runs
from bvjax.plain_text import shown

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

    def counting(self, video: int, videos: int) -> None:
        """The frames of this video, from 1, are being counted."""

    def start(self, frames: int, videos: int) -> None:
        """So many frames of so many videos are going to be decoded."""

    def video(self, name: str) -> None:
        """The next video."""

    def advance(self, frames: int) -> None:
        """So many frames are done."""

    def problem(self, sentence: str) -> None:
        """A video, or part of it, cannot be measured."""


class Quiet:
    """Progress that nobody follows; a base for who follows a part of it."""

    def counting(self, video: int, videos: int) -> None:
        pass

    def start(self, frames: int, videos: int) -> None:
        pass

    def video(self, name: str) -> None:
        pass

    def advance(self, frames: int) -> None:
        pass

    def problem(self, sentence: str) -> None:
        pass


def measure(task: Task, progress: Progress) -> dict[str, list[str]]:
    """Measures what is missing of this shard's videos, into the store.

    What goes wrong with a video, or with one of its metrics, stops nothing else: it is told to
    `progress`, returned as sentences by the video's name, and told again by `collect`.

    Raises:
        OSError: the store cannot be written to.
    """
    index, count = task.shard
    task.store.begin_shard(index, count)
    failed: dict[str, list[str]] = {}

    def fail(name: str, error: Exception, what: str = "") -> None:
        if isinstance(error, OSError):  # the disk's fault, not the video's
            raise error
        sentence = shown(what + _sentence(error))
        failed.setdefault(name, []).append(sentence)
        progress.problem(f"{name}: {sentence}")

    for name, what in unfinished_runs(task.videos):
        progress.problem(f"{name}: {what}")
    work = []
    paths = find_videos(task.videos)[index::count]
    for number, path in enumerate(paths, start=1):
        progress.counting(number, len(paths))
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
    try:
        for video, missing, pictures in work:
            progress.video(video.name)
            unfinished = _Unfinished(video, pictures and Pictures(video, task.segments), fail)
            unfinished.begin(missing, task.segments)
            try:
                unfinished.decode(progress)
            except Exception as error:
                fail(video.name, error)
                continue
            waiting.append(unfinished)
            if len(waiting) > UNFINISHED:
                waiting.popleft().finish(task)
    finally:  # also when a person stops it: what has been decoded is kept
        while waiting:
            waiting.popleft().finish(task)
    task.store.end_shard(index, count, failed)
    return failed


def collect(task: Task) -> tuple[list[Measured], list[str]]:
    """All videos of all shards as the store knows them, and what other shards still owe."""
    if at_work := task.store.at_work(task.shard[1]):
        return [], [f"part {index} of {task.shard[1]}" for index in at_work]
    failed = task.store.failures(task.shard[1])
    found, owed = [], []
    for path in find_videos(task.videos):
        name = name_of(path, task.videos)
        sentences = _grouped(task, failed.get(name, ()))
        failures = [f"{name}: {sentence}" for sentence in sentences]
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
    """A video being measured; a metric that fails is told to `fail` and left out."""

    video: Video
    pictures: Pictures | None
    fail: Callable[[str, Exception, str], None]
    begun: dict[str, tuple[Metric, Measurement]] = dataclasses.field(default_factory=dict)

    def begin(self, metrics: Sequence[Metric], segments: int) -> None:
        for metric in metrics:
            with self._may_fail(metric):
                self.begun[metric.name] = metric, metric.begin(self.video, segments)

    def decode(self, progress: Progress) -> None:
        """Hands all frames over; raises `UserError` for a file that cannot be decoded."""
        frames = 0
        with contextlib.closing(_ahead(blocks(self.video, BLOCK))) as decoded:
            for block in decoded:
                frames += len(block.frames)
                if frames > self.video.frames:
                    break
                for metric, measurement in list(self.begun.values()):
                    with self._may_fail(metric):
                        measurement.add(block)
                if self.pictures:
                    self.pictures.add(block)
                progress.advance(len(block.frames))
        if frames != self.video.frames:  # the file was replaced while it was read
            raise UserError(
                f"{self.video.frames} frames were counted, and then not as many decoded"
            )

    def finish(self, task: Task) -> None:
        """Waits for the scores and keeps them."""
        for metric, measurement in list(self.begun.values()):
            with self._may_fail(metric):
                scores = measurement.scores()
                task.store.save(self.video, _key(task, self.video, metric), scores)
        if self.pictures:
            task.store.save_pictures(self.video, self.pictures.jpegs())

    @contextlib.contextmanager
    def _may_fail(self, metric: Metric) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.begun.pop(metric.name, None)
            self.fail(self.video.name, error, f"{metric.name}: ")


def _sentence(error: Exception) -> str:
    """One line; what nobody foresaw is told with its kind."""
    if isinstance(error, UserError):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _too_short(task: Task, video: Video) -> Iterator[str]:
    """A sentence where a video has too few frames for metrics, with all of them in it."""
    needs: dict[int, list[str]] = {}
    for metric in task.metrics:
        if not _cut(task, video, metric.least_frames):
            needs.setdefault(metric.least_frames * task.segments, []).append(metric.name)
    if needs:
        parts = [f"{frames} for {', '.join(names)}" for frames, names in sorted(needs.items())]
        yield (
            f"{video.name} has {video.frames} frames; {task.segments} chunks need at least "
            f"{' and '.join(parts)}"
        )


def _grouped(task: Task, sentences: Sequence[str]) -> list[str]:
    """Sentences about a video, one for all the metrics that fail for the same reason."""
    metrics = {metric.name for metric in task.metrics}
    found: dict[str, list[str]] = {}
    for sentence in sentences:
        head, colon, rest = sentence.partition(": ")
        about = (rest, [head]) if colon and head in metrics else (sentence, [])
        found.setdefault(about[0], []).extend(about[1])
    return [f"{', '.join(names)}: {why}" if names else why for why, names in found.items()]


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
