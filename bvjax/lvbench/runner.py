"""Measures videos: each is decoded once for all metrics that it lacks, and scores are stored."""

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

BLOCK_FRAMES = 16  # decoded at a time
PREFETCH_BLOCKS = 2  # decoded ahead of the measuring
MAX_VIDEOS_IN_FLIGHT = 4  # their last batches may wait for the next videos' frames


@dataclasses.dataclass(frozen=True)
class MeasurementJob:
    """The videos and metrics to measure, and the store for the scores.

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
class MeasuredVideo:
    """A video with all its scores; each of `failures` is a sentence about what was not measured."""

    video: Video | None  # None: the file is broken
    name: str
    scores: Mapping[str, Scores] = dataclasses.field(default_factory=dict)
    failures: tuple[str, ...] = ()


class ProgressReporter(Protocol):
    """Receives the progress of a job, for a progress bar."""

    def count_video(self, video: int, videos: int) -> None:
        """Called before the frames of video `video` (from 1) of `videos` are counted."""

    def start(self, frames: int, videos: int) -> None:
        """Called once, with the numbers of frames and videos that will be decoded."""

    def video(self, name: str) -> None:
        """Called when the decoding of a video begins."""

    def advance(self, frames: int) -> None:
        """Called when `frames` more frames have been measured."""

    def problem(self, sentence: str) -> None:
        """Called with a sentence about a video that cannot be measured completely."""


class NullProgress:
    """A `ProgressReporter` that ignores everything; a base class for partial reporters."""

    def count_video(self, video: int, videos: int) -> None:
        pass

    def start(self, frames: int, videos: int) -> None:
        pass

    def video(self, name: str) -> None:
        pass

    def advance(self, frames: int) -> None:
        pass

    def problem(self, sentence: str) -> None:
        pass


def measure(job: MeasurementJob, progress: ProgressReporter) -> dict[str, list[str]]:
    """Measures the missing scores of this shard's videos and stores them.

    A failure of a video, or of one of its metrics, stops nothing else: it is reported to
    `progress`, returned as sentences by the video's name, and returned again by `collect`.

    Raises:
        OSError: the store cannot be written to.
    """
    index, count = job.shard
    job.store.start_shard(index, count)
    failures: dict[str, list[str]] = {}

    def record_failure(name: str, error: Exception, prefix: str = "") -> None:
        if isinstance(error, OSError):  # the disk's fault, not the video's
            raise error
        sentence = shown(prefix + _error_sentence(error))
        failures.setdefault(name, []).append(sentence)
        progress.problem(f"{name}: {sentence}")

    for name, problem in unfinished_runs(job.videos):
        progress.problem(f"{name}: {problem}")
    pending = []
    paths = find_videos(job.videos)[index::count]
    for number, path in enumerate(paths, start=1):
        progress.count_video(number, len(paths))
        try:
            video = job.store.video(path, job.videos)
        except UserError as error:
            record_failure(name_of(path, job.videos), error)
            continue
        for sentence in _length_warnings(job, video):
            progress.problem(sentence)
        missing_metrics = [m for m in job.metrics if _lacks_scores(job, video, m)]
        pictures = (
            _is_long_enough(job, video, 1) and job.store.pictures(video, job.segments) is None
        )
        if missing_metrics or pictures:
            pending.append((video, missing_metrics, pictures))
    progress.start(sum(video.frames for video, _, _ in pending), len(pending))
    in_flight: deque[_VideoMeasurement] = deque()
    try:
        for video, missing_metrics, pictures in pending:
            progress.video(video.name)
            measurement = _VideoMeasurement(
                video, pictures and Pictures(video, job.segments), record_failure
            )
            measurement.begin(missing_metrics, job.segments)
            try:
                measurement.decode(progress)
            except Exception as error:
                record_failure(video.name, error)
                continue
            in_flight.append(measurement)
            if len(in_flight) > MAX_VIDEOS_IN_FLIGHT:
                in_flight.popleft().finish(job)
    finally:  # also on KeyboardInterrupt: the scores of decoded videos are stored
        while in_flight:
            in_flight.popleft().finish(job)
    job.store.finish_shard(index, count, failures)
    return failures


def collect(job: MeasurementJob) -> tuple[list[MeasuredVideo], list[str]]:
    """Returns the stored scores of all shards' videos, and names the scores that are pending."""
    if unfinished_shards := job.store.unfinished_shards(job.shard[1]):
        return [], [f"part {index} of {job.shard[1]}" for index in unfinished_shards]
    failures_by_video = job.store.failures(job.shard[1])
    measured, pending = [], []
    for path in find_videos(job.videos):
        name = name_of(path, job.videos)
        sentences = _group_by_reason(job, failures_by_video.get(name, ()))
        failures = [f"{name}: {sentence}" for sentence in sentences]
        try:
            video = job.store.video(path, job.videos)
        except UserError as error:
            measured.append(
                MeasuredVideo(None, name, failures=tuple(failures) or (f"{name}: {error}",))
            )
            continue
        scores = {}
        for metric in job.metrics:
            stored = job.store.load(video, _key(job, video, metric))
            if stored is not None:
                scores[metric.name] = stored
            elif not failures and _is_long_enough(job, video, metric.least_frames):
                pending.append(f"{metric.name} of {name}")
        failures += _length_warnings(job, video)
        measured.append(MeasuredVideo(video, name, scores, tuple(failures)))
    return measured, pending


@dataclasses.dataclass
class _VideoMeasurement:
    """A video being measured; a metric that fails is passed to `record_failure` and dropped."""

    video: Video
    pictures: Pictures | None
    record_failure: Callable[[str, Exception, str], None]
    measurements: dict[str, tuple[Metric, Measurement]] = dataclasses.field(default_factory=dict)

    def begin(self, metrics: Sequence[Metric], segments: int) -> None:
        for metric in metrics:
            with self._catching(metric):
                self.measurements[metric.name] = metric, metric.begin(self.video, segments)

    def decode(self, progress: ProgressReporter) -> None:
        """Feeds all frames to the metrics; raises `UserError` for a file that cannot be decoded."""
        frames = 0
        with contextlib.closing(_prefetch(blocks(self.video, BLOCK_FRAMES))) as decoded:
            for block in decoded:
                frames += len(block.frames)
                if frames > self.video.frames:
                    break
                for metric, measurement in list(self.measurements.values()):
                    with self._catching(metric):
                        measurement.add(block)
                if self.pictures:
                    self.pictures.add(block)
                progress.advance(len(block.frames))
        if frames != self.video.frames:  # the file was replaced while it was read
            raise UserError(
                f"{self.video.frames} frames were counted, and then not as many decoded"
            )

    def finish(self, job: MeasurementJob) -> None:
        """Waits for the scores and stores them."""
        for metric, measurement in list(self.measurements.values()):
            with self._catching(metric):
                scores = measurement.scores()
                job.store.save(self.video, _key(job, self.video, metric), scores)
        if self.pictures:
            job.store.save_pictures(self.video, self.pictures.jpegs())

    @contextlib.contextmanager
    def _catching(self, metric: Metric) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.measurements.pop(metric.name, None)
            self.record_failure(self.video.name, error, f"{metric.name}: ")


def _error_sentence(error: Exception) -> str:
    """Returns an error as one line, with the class of any error that is not a `UserError`."""
    if isinstance(error, UserError):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _length_warnings(job: MeasurementJob, video: Video) -> Iterator[str]:
    """Yields one sentence that names all metrics for which a video has too few frames."""
    needs: dict[int, list[str]] = {}
    for metric in job.metrics:
        if not _is_long_enough(job, video, metric.least_frames):
            needs.setdefault(metric.least_frames * job.segments, []).append(metric.name)
    if needs:
        parts = [f"{frames} for {', '.join(names)}" for frames, names in sorted(needs.items())]
        yield (
            f"{video.name} has {video.frames} frames; {job.segments} chunks need at least "
            f"{' and '.join(parts)}"
        )


def _group_by_reason(job: MeasurementJob, sentences: Sequence[str]) -> list[str]:
    """Merges the sentences about metrics that failed for the same reason."""
    metrics = {metric.name for metric in job.metrics}
    metrics_by_reason: dict[str, list[str]] = {}
    for sentence in sentences:
        head, colon, rest = sentence.partition(": ")
        reason, failed = (rest, [head]) if colon and head in metrics else (sentence, [])
        metrics_by_reason.setdefault(reason, []).extend(failed)
    return [
        f"{', '.join(names)}: {reason}" if names else reason
        for reason, names in metrics_by_reason.items()
    ]


def _is_long_enough(job: MeasurementJob, video: Video, least: int) -> bool:
    return video.frames // job.segments >= least


def _lacks_scores(job: MeasurementJob, video: Video, metric: Metric) -> bool:
    long_enough = _is_long_enough(job, video, metric.least_frames)
    return long_enough and job.store.load(video, _key(job, video, metric)) is None


def _key(job: MeasurementJob, video: Video, metric: Metric) -> dict[str, Any]:
    weights = job.weights.get(metric.name, {})
    return score_key(video, metric.name, metric.settings, job.segments, weights)


def _prefetch(source: Iterable[Block]) -> Iterator[Block]:
    """Yields the same blocks, decoded by a background thread while earlier ones are measured."""
    ready: queue.Queue[tuple[Block | None, BaseException | None]] = queue.Queue(PREFETCH_BLOCKS)
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
