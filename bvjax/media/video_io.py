"""H.264 video and first images, without a system ffmpeg (PyAV carries its own).

While a video is being written it is a fragmented mp4, one fragment per second, so what is on disk
plays even if the process is killed; closing it turns it into an ordinary mp4 with its index in
front.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
from types import TracebackType
from typing import Any

import av
import numpy as np
import PIL.Image
import PIL.ImageOps
from absl import logging
from jaxtyping import UInt8

from bvjax.errors import UserError
from bvjax.files import cannot_write, reason
from bvjax.media.video_frames import location, open_video, tag, timed_frames, yuv420

WATCHABLE = 256  # pixels: the short side of a video that is pleasant to look at
# Of H.264's highest level: longer sides and more squares of 16 pixels no player has to take.
LONGEST_SIDE, MOST_SQUARES = 16384, 139264
QUALITY = 85  # of JPEG
_FRAGMENTED = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof",
    "flush_packets": "1",
}
# zerolatency: no look-ahead, so every frame that went in is on disk at the next key frame.
_CODEC = {"crf": "14", "preset": "medium", "tune": "zerolatency"}
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def watchable_scale(height: int, width: int) -> int:
    """Smallest whole factor that brings the short side to `WATCHABLE` pixels."""
    return max(1, -(-WATCHABLE // min(height, width)))


def check_scale(height: int, width: int, scale: int) -> None:
    """Raises `UserError` for a factor that makes a video of no size, or larger than H.264 allows."""
    fits = lambda scale: (
        scale * max(height, width) <= LONGEST_SIDE
        and -(-scale * height // 16) * -(-scale * width // 16) <= MOST_SQUARES
    )
    if scale >= 1 and fits(scale):
        return
    size = f"at {width}x{height} pixels"
    if not fits(1):
        raise UserError(f"a video {size} is larger than H.264 allows")
    largest = max(factor for factor in range(1, LONGEST_SIDE + 1) if fits(factor))
    raise UserError(f"the scale is {scale}; {size} it can be 1 to {largest}")


def enlarged(picture: UInt8[np.ndarray, "h w 3"], scale: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A picture with both sides `scale` times as long."""
    if scale == 1:
        return np.ascontiguousarray(picture)
    image = PIL.Image.fromarray(picture)
    size = (image.width * scale, image.height * scale)
    return np.asarray(image.resize(size, PIL.Image.Resampling.LANCZOS))


def jpeg(picture: UInt8[np.ndarray, "h w 3"], scale: int = 1, quality: int = QUALITY) -> bytes:
    """A picture as JPEG, enlarged by a whole factor."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(enlarged(picture, scale)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


class VideoWriter:
    """Writes uint8 RGB frames to an mp4 as they come; use it as a context manager.

    Raises `UserError` when the file cannot be written, `OSError` when the disk is full.
    """

    def __init__(self, path: str | pathlib.Path, fps: int, scale: int = 1):
        """`scale` is a whole factor by which frames are enlarged for watching."""
        self.path = pathlib.Path(path)
        self._fps, self._scale = fps, scale
        self._stream: av.VideoStream | None = None
        try:
            self._container = av.open(location(self.path), "w", format="mp4", options=_FRAGMENTED)
        except (OSError, av.FFmpegError) as error:
            raise cannot_write(self.path, error, "the video") from None

    def write(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        """Append frames; the first ones decide the size."""
        try:
            if self._stream is None:
                self._stream = self._open_stream(*frames.shape[1:3])
            for picture in frames:
                frame = yuv420(enlarged(picture, self._scale))
                self._container.mux(self._stream.encode(frame))
        except (OSError, av.FFmpegError) as error:
            raise cannot_write(self.path, error, "the video") from None

    def close(self) -> None:
        """Finish the file and move its index to the front."""
        try:
            if self._stream is not None:
                self._container.mux(self._stream.encode())
            self._container.close()
            if self._stream is not None:
                _move_index(self.path)
        except (OSError, av.FFmpegError) as error:
            raise cannot_write(self.path, error, "the video") from None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:  # what has been written so far stays, as after a kill
            with contextlib.suppress(OSError, av.FFmpegError):  # the first error is the one to tell
                self._container.close()

    def _open_stream(self, height: int, width: int) -> av.VideoStream:
        stream = self._container.add_stream("libx264", rate=self._fps, options=_CODEC)
        stream.height, stream.width = height * self._scale, width * self._scale
        stream.pix_fmt = "yuv420p"
        tag(stream)
        stream.codec_context.gop_size = max(1, self._fps)
        return stream


def check_writer(folder: str | pathlib.Path, height: int, width: int, fps: int) -> None:
    """Write and read back two frames in `folder`, so that a broken writer is found before the work.

    Raises `UserError`.
    """
    path = pathlib.Path(folder) / f".preflight.{os.getpid()}.mp4"
    try:
        with VideoWriter(path, fps) as writer:
            writer.write(np.zeros((2, height, width, 3), np.uint8))
        count = len(read_video(path)[0])
    finally:
        path.unlink(missing_ok=True)
    if count != 2:
        raise UserError(f"the video writer is broken: of 2 test frames {count} could be read back")


def is_whole(path: str | pathlib.Path, frames: int, height: int, width: int) -> bool:
    """Returns True if a video has been written to its end, with so many frames of this size.

    Only its index is read, which `VideoWriter` writes last.
    """
    try:
        with open_video(path) as (_, stream):
            return (stream.frames, stream.height, stream.width) == (frames, height, width)
    except UserError:
        return False


def read_video(path: str | pathlib.Path) -> tuple[UInt8[np.ndarray, "f h w 3"], float]:
    """All RGB frames of a video and its frames per second; raises `UserError`."""
    with open_video(path) as (_, stream):
        rate = float(stream.average_rate or stream.guessed_rate or 0)
    frames = [shown.picture() for shown in timed_frames(path)]
    if not frames:
        raise UserError(f"the video {path} has no frames")
    return np.stack(frames), rate


def read_image(
    source: str | pathlib.Path | PIL.Image.Image | np.ndarray, height: int, width: int
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as RGB of the wanted size, cut to the middle and resized where it has another.

    Args:
        source: a file, a picture of Pillow, or an array, uint8 [h, w, 3].

    Raises `UserError` for what is not one 8-bit picture.
    """
    path = source if isinstance(source, (str, pathlib.Path)) else "given"
    try:
        with _open_image(source) as file:
            # An MPO is a photograph, followed by its preview or the other eye's view.
            count = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
            if count > 1:
                raise UserError(
                    f"the image {path} is an animation of {count} frames; give one picture"
                )
            if file.mode not in _EIGHT_BIT:
                raise UserError(
                    f"the image {path} has pixels of kind {file.mode}; save it with 8 bits a "
                    "channel, as PNG or JPEG"
                )
            image = PIL.ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = PIL.Image.new("RGBA", image.size, "white")
                image = PIL.Image.alpha_composite(white, image)
            image = image.convert("RGB")
    except PIL.UnidentifiedImageError:
        raise UserError(f"{path} is not an image; give a PNG or JPEG file") from None
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file led them to
        message = reason(error) or type(error).__name__
        raise UserError(f"cannot read the image {path}: {message}") from None
    if image.size != (width, height):
        logging.info(
            "the image %s is %dx%d: it is cut to the middle and resized to %dx%d",
            path,
            *image.size,
            width,
            height,
        )
        image = PIL.ImageOps.fit(image, (width, height), PIL.Image.Resampling.LANCZOS)
    return np.asarray(image)


def _open_image(source: str | pathlib.Path | PIL.Image.Image | np.ndarray) -> Any:
    """A picture, as a context manager that closes what it opens."""
    if isinstance(source, (str, pathlib.Path)):
        return PIL.Image.open(source)
    if isinstance(source, PIL.Image.Image):
        return contextlib.nullcontext(source)
    if source.ndim != 3 or source.shape[-1] != 3 or source.dtype != np.uint8 or not source.size:
        raise UserError(
            f"the image is {list(source.shape)} {source.dtype}; an array must be uint8 [h, w, 3]"
        )
    return contextlib.nullcontext(PIL.Image.fromarray(source))


def _move_index(path: pathlib.Path) -> None:
    """Rewrite a fragmented mp4 as an ordinary one, without encoding again."""
    whole = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with (
            av.open(location(path)) as source,
            av.open(
                location(whole), "w", format="mp4", options={"movflags": "faststart"}
            ) as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:  # the demuxer ends with an empty packet
                    packet.stream = stream
                    target.mux(packet)
        os.replace(whole, path)
    finally:
        whole.unlink(missing_ok=True)
