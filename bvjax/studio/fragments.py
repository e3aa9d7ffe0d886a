"""Frames as pieces of fragmented mp4, each with a header of its own.

A piece begins at time 0: a page puts it at its place in the video (`SourceBuffer.timestampOffset`), so that pieces
can come in any order, be replaced, and be the same in all branches that share them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np
from jaxtyping import UInt8

from bvjax.errors import UserError
from bvjax.media.video_frames import tag, timed_frames, yuv420
from bvjax.media.video_io import enlarged

Frames = UInt8[np.ndarray, "f h w 3"]
_FORMAT = {"movflags": "empty_moov+default_base_moof+frag_keyframe"}
# What is watched once and thrown away: fast, without look-ahead; video.mp4 is made with more care.
_CODEC = {"crf": "17", "preset": "veryfast", "tune": "zerolatency"}


def encode(frames: Frames, fps: int, scale: int = 1) -> bytes:
    """A whole fragmented mp4 of H.264, one fragment; `scale` is a whole factor by which frames are enlarged."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options=_FORMAT) as container:
        stream = container.add_stream("libx264", rate=fps, options=_CODEC)
        stream.height, stream.width = frames.shape[1] * scale, frames.shape[2] * scale
        stream.pix_fmt = "yuv420p"
        tag(stream)
        stream.codec_context.gop_size = max(len(frames), 1)
        for picture in frames:
            container.mux(stream.encode(yuv420(enlarged(picture, scale))))
        container.mux(stream.encode())
    return buffer.getvalue()


def codec(piece: bytes) -> str:
    """The RFC 6381 name of the codec of a piece, "avc1.64000c", from its AVCDecoderConfigurationRecord.

    Raises `UserError` for a piece without one (ISO/IEC 14496-15, 5.3.3).
    """
    at = piece.find(b"avcC")
    if at < 0 or len(piece) < at + 8:
        raise UserError("a piece of video has no H.264 in it")
    return f"avc1.{piece[at + 5 : at + 8].hex()}"


def decode(piece: bytes) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The frames of a piece; raises `UserError` for one that is damaged."""
    for shown in timed_frames(io.BytesIO(piece), name="a piece"):
        yield shown.picture()
