"""The clips of a film that become examples, as streams of frames: no more than one frame is held."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.media.source_video import fitted, frames_at_rate
from bvjax.media.video_frames import Frame, Source, TimedFrame


@dataclasses.dataclass(frozen=True)
class Take:
    """A stretch of a film without a cut, and what its chunks show.

    Args:
        start: its first frame, counted at the model's frame rate from the film's first frame on.
        captions: one for each of its chunks, without time stamps.
    """

    start: int
    captions: tuple[str, ...]


class FilmEnds(UserError):
    """A film is shorter than its captions say."""


class Frames:
    """The frames of one window, to be taken once: the first one, then those of its chunks.

    Where the film ends before, `FilmEnds` is raised instead of the frame that is missing.
    """

    def __init__(
        self,
        before: Frame | None,
        frames: Iterator[TimedFrame],
        count: int,
        size: tuple[int, int],
    ):
        self._before, self._frames, self._count, self._size = before, frames, count, size
        self._made: TimedFrame | None = None  # that `last` was made of
        self.taken: int = 0
        self.last: Frame | None = None

    def __iter__(self) -> Iterator[Frame]:
        while self.taken < self._count:
            if not self.taken and self._before is not None:
                self.last = self._before
            else:
                shown = next(self._frames, None)
                if shown is None:
                    raise FilmEnds("the film ends before its captions do")
                if self.last is None or shown is not self._made:
                    self.last, self._made = fitted(shown, *self._size), shown
            self.taken += 1
            yield self.last

    def skip(self) -> None:
        """Takes what is left."""
        collections.deque(self, maxlen=0)


def windows(
    frames: Iterator[TimedFrame], takes: Iterable[Take], model: ModelConfig, chunks: int
) -> Iterator[tuple[Take, int, Frames, tuple[str, ...]]]:
    """The windows of `chunks` chunks that takes consist of, each beginning with the last frame of the one before.

    Args:
        frames: of the film, at the model's rate, from its first one on (`film_frames`).
        takes: in the order of their starts, none overlapping the next.
        model: whose chunks they are.
        chunks: of a window; what is left at the end of a take is no window.

    Yields:
        The take, how many of its chunks come before, the frames, and the captions. The frames are to be
        taken before the next window is asked for, or that is the last one.
    """
    count, at = ChunkGrid.of(model, chunks).num_frames, 0
    size = model.chunk.height, model.chunk.width
    for take in takes:
        next(itertools.islice(frames, take.start - at, take.start - at), None)  # skipped
        at = max(at, take.start)
        before: Frame | None = None
        for start in range(0, len(take.captions) - chunks + 1, chunks):
            window = Frames(before, frames, count, size)
            yield take, start, window, take.captions[start : start + chunks]
            if window.taken < count:
                return
            at += count - (before is not None)
            before = window.last


def film_frames(source: Source, model: ModelConfig, name: str = "") -> Iterator[TimedFrame]:
    """The frames of a film at a model's rate, not yet at its size; raises `UserError` as they are taken."""
    return frames_at_rate(source, model.chunk.fps, name)


def num_windows(takes: Sequence[Take], chunks: int) -> int:
    """Returns the number of windows of `chunks` chunks that takes have."""
    return sum(len(take.captions) // chunks for take in takes)
