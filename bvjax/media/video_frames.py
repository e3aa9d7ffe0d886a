"""Frames of a video file, one after another, as PyAV decodes them: the one way into any video.

Which of a file's streams is the video, when each frame is shown, what shape its pixels have, what a
reader cannot do justice to (HDR, files cut short): all that is decided here, alike for everybody.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import av
import av.container
import numpy as np
import PIL.Image
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8

from bvjax.errors import UserError
from bvjax.files import reason

Frame = UInt8[np.ndarray, "h w 3"]
Source = str | os.PathLike | BinaryIO

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_STILLS = Disposition.attached_pic | Disposition.timed_thumbnails
# Values of ITU-T H.273.
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics
_SRGB, _BT709, _GBR = 13, 1, 0  # transfer, primaries, matrix
# Up to here pixels count as square: encoders write 1280:1281 where a size had to be made even.
_SQUARE = Fraction(1, 50)
_WIDEST = 8  # of a pixel: no camera or format has others
_DECLARING = {"mov", "matroska", "avi"}  # containers whose header says how long the file is
_CUT = 1.0  # seconds that may be missing of it
_JUMPS = 0x0200  # AVFMT_TS_DISCONT: a container whose clock may jump, as that of a broadcast
_GAP = 10  # seconds: a jump forward in such a container, not a long still


@dataclasses.dataclass(frozen=True)
class TimedFrame:
    """A decoded frame, shown from `start` to `end`, in seconds after the first one's start."""

    start: Fraction
    end: Fraction
    frame: av.VideoFrame
    pixel: Fraction = Fraction(1)  # a pixel's width in its heights (`pixel_shape`)
    name: str = "the video"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of `picture()`."""
        height, width = self.frame.height, _width(self.frame, self.pixel)
        return (width, height) if round(self.frame.rotation / 90) % 2 else (height, width)

    def picture(self) -> Frame:
        """`picture`, with errors that name the video."""
        with _user_errors(self.name):
            return picture(self.frame, self.pixel)


def picture(frame: av.VideoFrame, pixel: Fraction = Fraction(1)) -> Frame:
    """RGB as it is to be watched: rotated as the camera noted, its pixels made square.

    Raises `UserError` for a frame in HDR.
    """
    _refuse_hdr(frame)
    rgb, width = frame.to_ndarray(format="rgb24"), _width(frame, pixel)
    if width != frame.width:
        image = PIL.Image.fromarray(rgb)
        rgb = np.asarray(image.resize((width, frame.height), PIL.Image.Resampling.LANCZOS))
    return np.rot90(rgb, round(frame.rotation / 90))


def timed_frames(
    source: Source, step: Fraction = Fraction(1), name: str = ""
) -> Iterator[TimedFrame]:
    """All frames of a video in the order in which they are shown.

    Time goes on where a file's clock jumps back, as in files that were joined.

    Args:
        source: a path, or an open file.
        step: seconds that a frame is shown where the file does not say.
        name: of the video, for messages; by default its path.

    Raises `UserError` for a file that is missing, not a video, damaged, cut short or HDR.
    """
    name = name or str(source)
    with open_video(source, name) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        step = Fraction(1 / rate) if rate else step
        clock, reached = _Clock(bool(container.format.flags & _JUMPS)), 0.0
        index, pixel = 0, pixel_shape(stream)
        try:
            for packet in container.demux():
                reached = max(reached, _end_of(packet))
                if packet.stream is not stream:
                    continue
                for frame in stream.decode(packet):
                    _refuse_hdr(frame)
                    tick = Fraction(frame.time_base or 0)
                    known = frame.pts is not None and tick
                    raw = Fraction(frame.pts or 0) * tick if known else index * step
                    length = Fraction(frame.duration or 0) * tick or step
                    yield TimedFrame(*clock.place(raw, length), frame, pixel, name)
                    index += 1
        except av.FFmpegError:
            if index:  # the last packet of a file that was cut is broken
                _check_whole(container, stream, clock.end, reached, step)
            raise
        _check_whole(container, stream, clock.end, reached, step)


@contextlib.contextmanager
def open_video(
    source: Source, name: str = ""
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """An open container and the stream that is its video: not a cover or a thumbnail.

    What goes wrong with the file inside the `with` is raised as `UserError`.
    """
    name = name or str(source)
    with _user_errors(name):
        target = location(source) if isinstance(source, str | os.PathLike) else source
        with av.open(target, "r", metadata_errors="replace") as container:
            moving = [s for s in container.streams.video if not s.disposition & _STILLS]
            if not moving:
                raise UserError("it has no video in it")
            moving = [s for s in moving if s.codec_context is not None]
            if not moving:
                raise UserError("its video is in a format that is not known here, or damaged")
            stream = max(moving, key=_rank)
            stream.thread_type = "AUTO"
            yield container, stream


def pixel_shape(stream: av.VideoStream) -> Fraction:
    """A pixel's width in its heights, 1 where the file does not say; raises `UserError`."""
    shape = Fraction(stream.sample_aspect_ratio or 1)
    if not Fraction(1, _WIDEST) <= shape <= _WIDEST:
        raise UserError(
            f"its pixels are {shape.numerator}:{shape.denominator}; they can be up to {_WIDEST}:1"
        )
    return shape


def location(path: str | os.PathLike) -> str:
    """A path as FFmpeg takes it for the name of a file, whatever it looks like ("12:30 fox.mp4").

    Raises `UserError` for an address on a network: nothing is connected to.
    """
    text = os.fspath(path)
    if _ADDRESS.match(text) and not os.path.isdir(os.path.dirname(text)):
        shown = re.sub(":/+", "://", text, count=1)  # `pathlib` makes one slash of two
        raise _Address(f"{shown} is an address; the path of a file is wanted")
    return f"file:{text}"


def tag(stream: av.VideoStream, rgb: bool = False) -> None:
    """Notes in a stream that is to be written what its numbers mean, so that no player guesses.

    sRGB's primaries and curve; and where pixels are not `rgb`, BT.601's matrix and range, which is
    how FFmpeg converts RGB by default.
    """
    codec = stream.codec_context
    codec.color_primaries, codec.color_trc = _BT709, _SRGB
    codec.colorspace = _GBR if rgb else Colorspace.ITU601
    codec.color_range = ColorRange.JPEG if rgb else ColorRange.MPEG


def yuv420(rgb: Frame) -> av.VideoFrame:
    """RGB as the frame that a stream with the marks of `tag` wants."""
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    return frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=ColorRange.MPEG,
        dst_color_trc=_SRGB,
        dst_color_primaries=_BT709,
    )


class _Address(UserError):
    """An address where a path is wanted."""


@contextlib.contextmanager
def _user_errors(name: str) -> Iterator[None]:
    """Raises whatever goes wrong inside as one sentence that names the video."""
    try:
        yield
    except _Address:
        raise
    except UserError as error:
        raise UserError(f"cannot read the video {name}: {error}") from None
    except (OSError, ValueError, ArithmeticError, av.FFmpegError) as error:
        raise UserError(f"cannot read the video {name}: {reason(error)}") from None


class _Clock:
    """Places frames one after another on one clock that begins at 0 and never goes back."""

    def __init__(self, jumps: bool):
        self._jumps = jumps
        self._offset: Fraction | None = None
        self._last = self.end = Fraction(0)

    def place(self, raw: Fraction, length: Fraction) -> tuple[Fraction, Fraction]:
        """(start, end) of a frame that the file shows at `raw` for `length` seconds."""
        if self._offset is None:
            self._offset = raw
        start = raw - self._offset
        if start < self._last or (self._jumps and start > self.end + _GAP):
            start = self.end
            self._offset = raw - start
        self._last, self.end = start, max(self.end, start + length)
        return start, start + length


def _rank(stream: av.VideoStream) -> tuple[bool, bool, int, int]:
    """A sort key: the stream that a player would show has the largest."""
    several = stream.frames != 1  # 0: the file does not say
    default = bool(stream.disposition & Disposition.default)
    return several, default, (stream.width or 0) * (stream.height or 0), -stream.index


def _width(frame: av.VideoFrame, pixel: Fraction) -> int:
    """The width of a frame with square pixels, before it is rotated."""
    if abs(pixel - 1) < _SQUARE:
        return frame.width
    return max(1, round(frame.width * pixel))


def _refuse_hdr(frame: av.VideoFrame) -> None:
    kind = _HDR.get(int(frame.color_trc or 0))
    if kind:
        raise UserError(
            f"it is HDR ({kind}), which looks wrong without tone mapping; convert it to SDR "
            "(BT.709) first"
        )


def _end_of(packet: av.Packet) -> float:
    """The end of what a packet holds, in seconds on the file's clock."""
    ticks = packet.dts if packet.pts is None else packet.pts
    if ticks is None or not packet.time_base:
        return 0.0
    return float((ticks + (packet.duration or 0)) * packet.time_base)


def _check_whole(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    end: Fraction,
    reached: float,
    step: Fraction,
) -> None:
    """Raises `UserError` where a file ends before the length that its header promises."""
    if not _DECLARING & set(container.format.name.split(",")):
        return
    promises = [
        (float((stream.duration or 0) * (stream.time_base or 0)), float(end)),
        ((container.duration or 0) / av.time_base, reached),
    ]
    if container.format.name == "avi":  # FFmpeg shortens an AVI's length to what is there
        promises.append((float(stream.frames * step), float(end)))
    promised, seen = max(promises, key=lambda pair: pair[0] - pair[1])
    if promised > seen + _CUT:
        raise UserError(
            f"it should last {promised:.1f} s, but only {seen:.1f} s of it can be "
            "decoded: the file is cut short"
        )
