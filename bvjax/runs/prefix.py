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
from bvjax.runs.place import PREFIX_VIDEO
from bvjax.runs.run_dir import RunDir
from bvjax.sharding import ONE_DEVICE, Layout

PARTS = ("end", "start")


@dataclasses.dataclass(frozen=True)
class Prefix:
    """The part of a video that a run takes."""

    path: pathlib.Path
    model: ModelConfig
    chunks: int
    start: int  # its first frame, at chunk.fps
    num_frames: int
    total_frames: int  # frames of the whole video
    sha256: str  # of the frames taken

    def frames(self) -> Iterator[Frame]:
        """The frames, read again."""
        chunk = self.model.chunk
        frames = source_video.read_frames(
            self.path, chunk.fps, chunk.height, chunk.width, self.start
        )
        return itertools.islice(frames, self.num_frames)

    def summary(self) -> str:
        """A sentence about what is taken of the video and what is left out."""
        fps = self.model.chunk.fps
        stop = self.start + self.num_frames
        chunks = f"chunks 1 to {self.chunks} are" if self.chunks > 1 else "chunk 1 is"
        skipped = [
            f"the {name} {frames / fps:.2f} s"
            for name, frames in (("first", self.start), ("last", self.total_frames - stop))
            if frames
        ]
        return (
            f"{chunks} seconds {self.start / fps:.2f} to {stop / fps:.2f} of the video {self.path}, "
            f"which has {self.total_frames / fps:.2f}"
            + (f"; left out: {' and '.join(skipped)}" if skipped else "")
        )


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Progress of encoding a prefix, in latent frames."""

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
    max_chunks = story_chunks - 1
    if not max_chunks:
        raise UserError(
            "the story has one chunk, and `video` gives the first: no chunk is left to generate"
        )
    if chunks is not None and not 1 <= chunks <= max_chunks:
        raise UserError(
            f"`video_chunks` is {chunks}; with {story_chunks} chunks in the story it can be 1 to "
            f"{max_chunks}: one must be left to generate"
        )
    count = source_video.count_frames(path, chunk.fps)
    num_chunks = min(chunks or max_chunks, ChunkGrid.of(model).chunks_in(count))
    if num_chunks < (chunks or 1):
        needed = ChunkGrid.of(model, chunks or 1).num_frames
        requested = f"{chunks} chunks take" if (chunks or 1) > 1 else "a chunk takes"
        raise UserError(
            f"the video {path} is too short: {requested} {needed} frames ({needed / chunk.fps:.2f} s at "
            f"{chunk.fps} fps), and it has {count} ({count / chunk.fps:.2f} s)"
        )
    height, width = source_video.frame_size(path)
    if (height, width) != (chunk.height, chunk.width):
        logging.info(
            "the video %s is %dx%d: it is cut to the middle and resized to %dx%d",
            path,
            width,
            height,
            chunk.width,
            chunk.height,
        )
    num_frames = ChunkGrid.of(model, num_chunks).num_frames
    start = count - num_frames if part == "end" else 0
    prefix = Prefix(path, model, num_chunks, start, num_frames, count, "")
    return dataclasses.replace(prefix, sha256=sha256_of(prefix.frames()))


def sha256_of(frames: Iterable[Frame]) -> str:
    """The hash of all values of frames, in hexadecimal."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()


def encode_prefix(run: RunDir, params: Any, layout: Layout = ONE_DEVICE) -> Iterator[Encoding]:
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
            f"the frames in {run.path / PREFIX_VIDEO} are not those that the run began with: the file has "
            "been cut short or changed"
        )
    done = run.load_latents(list(sizes))
    encoded, total = 0, sum(new for new, _ in sizes.values())
    for chunk_id, latents in encode_chunks(params, model, count, run.video_frames(), layout):
        encoded += 1
        if latents is not None and chunk_id not in done:
            run.save_latents(chunk_id, latents)
        yield Encoding(encoded, total)
