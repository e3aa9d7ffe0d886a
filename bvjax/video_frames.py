"""The frames of a video file, one after another, as PyAV decodes them."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8

from bvjax.errors import UserError

Frame = UInt8[np.ndarray, "h w 3"]
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def location(path: str | os.PathLike) -> str:
    """A path as FFmpeg takes it for the name of a file, whatever it looks like ("12:30 fox.mp4").

    Raises `UserError` for an address on a network: nothing is connected to.
    """
    text = os.fspath(path)
    if _ADDRESS.match(text) and not os.path.isdir(os.path.dirname(text)):
        shown = re.sub(":/+", "://", text, count=1)  # `pathlib` makes one slash of two
        raise UserError(f"{shown} is an address; the path of a file is wanted")
    return f"file:{text}"


def timed_frames(
    path: str | pathlib.Path, step: Fraction = Fraction(1)
) -> Iterator[tuple[Fraction, Fraction, av.VideoFrame]]:
    """(start, end, frame) of each frame, in seconds after the first; `step` where nobody says.

    Raises `UserError` for a file that is missing, not a video or damaged.
    """
    try:
        with av.open(location(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} has no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = stream.average_rate or stream.guessed_rate
            step, begin = Fraction(1 / rate) if rate else step, None
            for index, frame in enumerate(container.decode(stream)):
                start = index * step if frame.pts is None else frame.pts * frame.time_base
                begin = start if begin is None else begin
                length = frame.duration * frame.time_base if frame.duration else step
                yield start - begin, start - begin + length, frame
    except UserError:
        raise
    except (OSError, ValueError, av.FFmpegError) as error:
        raise UserError(f"cannot read the video {path}: {reason(error)}") from None


def upright(frame: av.VideoFrame) -> Frame:
    """RGB as it is to be watched: telephones film lying down and note the angle."""
    picture = frame.to_ndarray(format="rgb24")
    return np.rot90(picture, round(frame.rotation / 90))


def reason(error: Exception) -> str:
    """What an error of PyAV or of the system says went wrong."""
    return getattr(error, "strerror", None) or str(error)
