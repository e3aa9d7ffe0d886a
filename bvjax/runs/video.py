"""Results of generation in Python: a finished video, or its chunks one by one."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from bvjax.errors import UserError
from bvjax.generate.chunk_memory import ChunkMemory
from bvjax.media import video_io
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
