"""The chunks of LV-Bench's videos: the frames that one caption covers, decoded when asked for."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from bvjax.errors import UserError
from bvjax.media.video_frames import open_video, picture, pixel_shape


class Chunks:
    """Random access to all (video, caption) pairs of a source, for `grain.MapDataset.source`.

    Items: frames [f, h, w, 3] uint8, caption str, id str, start and stop seconds, class int.
    Captions are counted once when this is made, which reads every row.
    """

    def __init__(self, source: Sequence[Mapping[str, Any]]):
        self._source = source
        counts = [len(source[row]["captions"]) for row in range(len(source))]
        self._first_chunk_of_row = np.concatenate([[0], np.cumsum(counts)]).astype(int)

    def __len__(self) -> int:
        return int(self._first_chunk_of_row[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `IndexError`, and `UserError` for a video that cannot be decoded."""
        if not 0 <= index < len(self):
            raise IndexError(f"chunk {index} of {len(self)}")
        row_index = int(np.searchsorted(self._first_chunk_of_row, index, side="right")) - 1
        row, caption_index = self._source[row_index], index - self._first_chunk_of_row[row_index]
        start, stop = float(row["start"][caption_index]), float(row["stop"][caption_index])
        name = row["id"].decode()
        return {
            "frames": frames_between(row["video"], start, stop, name),
            "caption": row["captions"][caption_index].decode(),
            "id": name,
            "start": start,
            "stop": stop,
            "class": int(row["class"]),
        }


def frames_between(
    video: bytes, start: float, stop: float, name: str = "the video"
) -> UInt8[np.ndarray, "f h w 3"]:
    """The frames whose time, from the video's first frame on, is in [start, stop) seconds.

    Decoding begins at the key frame before `start`. Raises `UserError` where there is no frame.
    """
    frames = []
    with open_video(io.BytesIO(video), name) as (container, stream):
        first, pixel_aspect = stream.start_time or 0, pixel_shape(stream)
        if start > 0:
            container.seek(first + int(start / stream.time_base), stream=stream)
        for index, frame in enumerate(container.decode(stream)):
            if frame.pts is None:
                raise UserError(f"it does not say when its frame {index} is shown")
            # Half a tick of room: frame times are whole numbers of ticks.
            seconds = float((frame.pts - first + 0.5) * stream.time_base)
            if seconds >= stop:
                break
            if seconds >= start:
                frames.append(picture(frame, pixel_aspect))
    if not frames:
        raise UserError(f"{name} has no frames from {start:g} s to {stop:g} s")
    return np.stack(frames)
