"""Video-to-video: the end of a video, or its beginning, becomes the first chunks of a run.

The causal VAE takes the video piece by piece, so memory does not grow with its length, and each
chunk is on disk before the next is encoded.  Chunks given in this way enter the bank as generated
ones do when a run is resumed: `rollout.stream` finds them among those that are done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from absl import logging

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.generate.encoding import encode_chunks, latents_of
from bvjax.media import source_video
from bvjax.media.source_video import Frame
from bvjax.runs.place import GIVEN
from bvjax.runs.run_dir import RunDir
from bvjax.sharding import ONE_DEVICE, Layout

PARTS = ("end", "start")


@dataclasses.dataclass(frozen=True)
class Prefix:
    """What a run takes of a video."""

    path: pathlib.Path
    model: ModelConfig
    chunks: int
    start: int  # its first frame, at chunk.fps
    num_frames: int
    of: int  # frames of the whole video
    sha256: str  # of the frames taken

    def frames(self) -> Iterator[Frame]:
        """The frames, read again."""
        chunk = self.model.chunk
        frames = source_video.read_frames(
            self.path, chunk.fps, chunk.height, chunk.width, self.start
        )
        return itertools.islice(frames, self.num_frames)

    def told(self) -> str:
        """A sentence about what is taken of the video and what is left out."""
        fps = self.model.chunk.fps
        stop = self.start + self.num_frames
        which = f"chunks 1 to {self.chunks} are" if self.chunks > 1 else "chunk 1 is"
        left = [
            f"the {name} {frames / fps:.2f} s"
            for name, frames in (("first", self.start), ("last", self.of - stop))
            if frames
        ]
        return (
            f"{which} seconds {self.start / fps:.2f} to {stop / fps:.2f} of the video {self.path}, "
            f"which has {self.of / fps:.2f}" + (f"; left out: {' and '.join(left)}" if left else "")
        )


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How far a prefix has been encoded, in latent frames."""

    done: int
    total: int


def take(
    path: str | pathlib.Path,
    model: ModelConfig,
    story_chunks: int,
    chunks: int | None = None,
    part: str = "end",
) -> Prefix:
    """Reads a video and finds out what to take of it.

    Args:
        chunks: None takes all whole chunks that it holds, but leaves one to generate.
        part: "end" takes its last frames, so that what is generated goes on where the video stops;
            "start" its first.

    Raises:
        UserError: the file is missing, not a video or too short; no chunk would be left.
    """
    chunk, path = model.chunk, pathlib.Path(path)
    if part not in PARTS:
        raise UserError(f"`video_part` is {part!r}; it can be {' or '.join(PARTS)}")
    most = story_chunks - 1
    if not most:
        raise UserError(
            "the story has one chunk, and `video` gives the first: no chunk is left to generate"
        )
    if chunks is not None and not 1 <= chunks <= most:
        raise UserError(
            f"`video_chunks` is {chunks}; with {story_chunks} chunks in the story it can be 1 to "
            f"{most}: one must be left to generate"
        )
    count = source_video.count_frames(path, chunk.fps)
    held = min(chunks or most, ChunkGrid.of(model).chunks_in(count))
    if held < (chunks or 1):
        needed = ChunkGrid.of(model, chunks or 1).num_frames
        what = f"{chunks} chunks take" if (chunks or 1) > 1 else "a chunk takes"
        raise UserError(
            f"the video {path} is too short: {what} {needed} frames ({needed / chunk.fps:.2f} s at "
            f"{chunk.fps} fps), and it has {count} ({count / chunk.fps:.2f} s)"
        )
    height, width = source_video.frame_size(path)
    if (height, width) != (chunk.height, chunk.width):
        logging.info(
            "the video %s is %dx%d: it is cut to the middle and resized to %dx%d",
            path, width, height, chunk.width, chunk.height,
        )  # fmt: skip
    num_frames = ChunkGrid.of(model, held).num_frames
    start = count - num_frames if part == "end" else 0
    taken = Prefix(path, model, held, start, num_frames, count, "")
    return dataclasses.replace(taken, sha256=sha256_of(taken.frames()))


def sha256_of(frames: Iterable[Frame]) -> str:
    """The hash of all values of frames, in hexadecimal."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()


def encode_given(run: RunDir, params: Any, layout: Layout = ONE_DEVICE) -> Iterator[Encoding]:
    """Encodes the chunks of a run that its video gives, unless all are on disk, and saves them.

    Args:
        params: of the VAE.
        layout: the devices that share the work.

    Yields after every latent frame.

    Raises `UserError` when the run's copy of the video cannot be read or is not that copy.
    """
    model, count = run.settings.model, run.settings.video_chunks
    if not count:
        return
    sizes = latents_of(model, count)
    if len(run.load_latents(list(sizes), tidy=False)) == len(sizes):
        return
    if sha256_of(run.video_frames()) != run.settings.video_sha256:
        raise UserError(
            f"the frames in {run.path / GIVEN} are not those that the run began with: the file has "
            "been cut short or changed"
        )
    done = run.load_latents(list(sizes))
    encoded, total = 0, sum(new for new, _ in sizes.values())
    for chunk_id, latents in encode_chunks(params, model, count, run.video_frames(), layout):
        encoded += 1
        if latents is not None and chunk_id not in done:
            run.save_latents(chunk_id, latents)
        yield Encoding(encoded, total)
