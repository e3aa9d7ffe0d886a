"""A small picture of the middle of each segment, for people to look at."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image

from bvjax.lvbench.video import Block, Video

WIDTH = 160  # pixels


class Pictures:
    """Collects the middle frame of each segment of a video."""

    def __init__(self, video: Video, segments: int):
        length = video.frames // segments
        self._segment_of_frame = {i * length + length // 2: i for i in range(segments)}
        self._jpegs: dict[int, bytes] = {}

    def add(self, block: Block) -> None:
        """Takes the next frames."""
        for index in range(block.first, block.first + len(block.frames)):
            if index in self._segment_of_frame:
                frame = block.frames[index - block.first]
                self._jpegs[self._segment_of_frame[index]] = _jpeg(frame)

    def jpegs(self) -> list[bytes]:
        """JPEG files in the segments' order."""
        return [self._jpegs[i] for i in sorted(self._jpegs)]


def _jpeg(frame: np.ndarray) -> bytes:
    image = PIL.Image.fromarray(np.ascontiguousarray(frame))
    if image.width > WIDTH:
        height = max(1, round(image.height * WIDTH / image.width))
        image = image.resize((WIDTH, height), PIL.Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
