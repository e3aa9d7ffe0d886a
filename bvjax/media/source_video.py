"""A video to go on from: its frames at a model's rate and size, and an exact copy of those used."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
import PIL.Image
import PIL.ImageOps

from bvjax.errors import UserError
from bvjax.files import cannot_write
from bvjax.media.video_frames import Frame, Source, TimedFrame, location, tag, timed_frames

# Of the time a frame is shown: one that the source would fill by less is not made.  The times in
# Matroska files are rounded to milliseconds, so the end of a video is not exact.
_LEAST_SHARE = Fraction(1, 10)


def read_frames(
    source: Source, fps: int, height: int, width: int, start: int = 0, name: str = ""
) -> Iterator[Frame]:
    """RGB frames at k / fps seconds after the first, each the frame of the file nearest in time.

    Frames of another size are cut to the middle and resized.  Nothing but the frame at hand is
    held, and reading stops with the caller.

    Args:
        source: a path, or an open file.
        start: the first k.
        name: of the video, for messages; by default its path.

    Raises `UserError` for a file that is missing, not a video or damaged.
    """
    last: tuple[TimedFrame, Frame] | None = None  # a frame of the file and its picture
    for shown in itertools.islice(frames_at_rate(source, fps, name), start, None):
        if last is None or shown is not last[0]:
            last = shown, fitted(shown, height, width)
        yield last[1]


def count_frames(path: str | pathlib.Path, fps: int) -> int:
    """The number of frames that `read_frames` yields from the first on; raises `UserError`."""
    return sum(1 for _ in frames_at_rate(path, fps))


def frames_at_rate(source: Source, fps: int, name: str = "") -> Iterator[TimedFrame]:
    """The frames of `read_frames` before they are made pictures; one that is shown longer comes again.

    Raises `UserError`.
    """
    count, last = 0, None  # frames given; the one before
    for now in timed_frames(source, Fraction(1, fps), name):
        if last is not None:
            while Fraction(count, fps) <= (last.start + now.start) / 2:
                yield last
                count += 1
        last = now
    if last is None:
        raise UserError(f"the video {name or source} has no frames")
    while count + _LEAST_SHARE < last.end * fps or not count:
        yield last
        count += 1


def pick_frames(
    source: Source, fps: int, wanted: Iterable[int], name: str = ""
) -> Iterator[tuple[int, TimedFrame]]:
    """Those frames of `read_frames` whose numbers are wanted, without the work of turning others into pictures.

    Args:
        source: a path, or an open file.
        wanted: numbers k of frames at k / fps seconds.
        name: of the video, for messages; by default its path.

    Yields (k, frame) in order; what is past the video's end is not there.  Raises `UserError`.
    """
    numbers = set(wanted)
    last = max(numbers, default=-1)
    for k, shown in enumerate(frames_at_rate(source, fps, name)):
        if k in numbers:
            yield k, shown
        if k >= last:
            return


def frame_size(path: str | pathlib.Path) -> tuple[int, int]:
    """(height, width) of a video as it is to be watched; raises `UserError`."""
    for shown in timed_frames(path):
        return shown.size
    raise UserError(f"the video {path} has no frames")


def write_copy(path: pathlib.Path, frames: Iterable[Frame], fps: int) -> None:
    """Writes frames without any loss (FFV1); raises `UserError`, `OSError` when the disk is full."""
    try:
        with av.open(location(path), "w", format="matroska") as container:
            stream = None
            for picture in frames:
                if stream is None:
                    stream = container.add_stream("ffv1", rate=fps)
                    stream.height, stream.width = picture.shape[:2]
                    stream.pix_fmt = "bgr0"
                    tag(stream, rgb=True)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                container.mux(stream.encode(frame))
            if stream is not None:
                container.mux(stream.encode())
    except (OSError, av.FFmpegError) as error:
        raise cannot_write(path, error, "the video") from None


def read_copy(path: pathlib.Path) -> Iterator[Frame]:
    """The frames that `write_copy` was given; raises `UserError`."""
    for shown in timed_frames(path):
        yield shown.picture()


def fitted(shown: TimedFrame, height: int, width: int) -> Frame:
    """A frame as a picture of another size: cut to the middle where its shape is another, and resized."""
    picture = np.ascontiguousarray(shown.picture())
    if picture.shape[:2] == (height, width):
        return picture
    image = PIL.Image.fromarray(picture)
    return np.asarray(PIL.ImageOps.fit(image, (width, height), PIL.Image.Resampling.LANCZOS))
