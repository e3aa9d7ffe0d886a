"""Results of generation in Python: a finished video, or its chunks one by one."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

from bvjax.errors import UserError
from bvjax.generate.chunk_memory import ChunkMemory
from bvjax.media import video_io
from bvjax.runs.report import display
from bvjax.runs.requests import whole_numbers


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """A piece of a video as soon as it is finished."""

    number: int  # 1, 2, ...; 0 is the first frame, where that is made before chunk 1
    caption: str
    frames: UInt8[np.ndarray, "f h w 3"] = dataclasses.field(repr=False)
    latents: Float[np.ndarray, "l h w z"] = dataclasses.field(repr=False)
    memory: ChunkMemory | None = dataclasses.field(repr=False)  # None for number 0
    fresh: bool = True  # False where the run folder had it already
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict, repr=False)
    fps: int = 0

    def _repr_html_(self) -> str:
        """Notebooks show a chunk as a player."""
        return display.player(self.frames, max(self.fps, 1), self.caption)


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
    """A finished video.

    Latents are float32, at the scale that the DiT works with; `memory` has an item for each chunk
    from number 1 on.
    """

    frames: UInt8[np.ndarray, "f h w 3"] = dataclasses.field(repr=False)
    latents: Float[np.ndarray, "l h w z"] = dataclasses.field(repr=False)
    memory: tuple[ChunkMemory, ...] = dataclasses.field(repr=False)
    captions: tuple[str, ...]
    fps: int
    path: pathlib.Path | None  # the run folder, where one was asked for

    def _repr_html_(self) -> str:
        """Notebooks show a video as a player."""
        return display.player(self.frames, self.fps, self.captions[0])

    def filmstrip(self, count: int = 8, height: int = 128) -> PIL.Image.Image:
        """Returns `count` frames at equal distances side by side, `height` pixels high.

        Raises `UserError` for a count that is not from 1 to the number of frames.
        """
        return display.filmstrip(self.frames, count, height)

    def retrieval_map(self) -> PIL.Image.Image:
        """Returns a picture of which past chunks each chunk looked back at, and in which role."""
        return display.retrieval_map(self.memory)

    def save(self, path: str | pathlib.Path, scale: int | None = None) -> pathlib.Path:
        """Writes the frames as H.264 to a file that ends in .mp4; returns its path.

        Args:
            scale: whole factor by which the frames are enlarged; None makes them watchable.

        Raises `UserError` for another ending, a scale out of range, or a file that cannot be written.
        """
        path, (height, width) = pathlib.Path(path), self.frames.shape[1:3]
        if path.suffix.lower() != ".mp4":
            raise UserError(f"a video is saved as .mp4, not as {path}")
        scale = video_io.watchable_scale(height, width) if scale is None else scale
        scale = whole_numbers(scale=scale)["scale"]
        video_io.check_scale(height, width, scale)
        with video_io.VideoWriter(path, self.fps, scale) as writer:
            writer.write(self.frames)
        return path
