"""Probe: what a film's file says of itself, without decoding more than its first frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bvjax.errors import UserError
from bvjax.files import sha256_of
from bvjax.lvbench.video import find_videos, name_of
from bvjax.media.video_frames import open_video, timed_frames
from data_pipelines.curation.rows import Row


def film_rows(folder: Path) -> list[Row]:
    """A row for each film below a folder, in the order of their names; raises `UserError` without any.

    Size and time of change are part of it: a film that was replaced is worked on again.
    """
    rows = []
    for path in find_videos(folder):
        name, state = name_of(path, folder), path.stat()
        rows.append(
            {
                "id": name,
                "film": name,
                "path": str(path.absolute()),
                "bytes": state.st_size,
                "changed": state.st_mtime_ns,
            }
        )
    return rows


def probe(row: Row, settings: Any = None) -> list[Row]:
    """Adds the file's hash, codec, frame size as it is watched, rotation, pixel shape and stated rate and length.

    Raises `UserError` for what is no film, is damaged at its beginning, or is HDR.
    """
    del settings
    path = Path(row["path"])
    if row["bytes"] == 0:
        raise UserError("the file is empty")
    with open_video(path, row["film"]) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        stated = {
            "container": container.format.name,
            "codec": stream.codec_context.name,
            "pixel_format": stream.codec_context.pix_fmt or "",
            "stated_fps": round(float(rate), 4) if rate else 0.0,
            "stated_seconds": round((container.duration or 0) / 1e6, 3),
            "sound": bool(container.streams.audio),
        }
    first = next(iter(timed_frames(path, name=row["film"])), None)
    if first is None:
        raise UserError("the film has no frames")
    height, width = first.size
    return [
        {
            **row,
            **stated,
            "sha256": sha256_of(path),
            "height": height,
            "width": width,
            "rotation": round(first.frame.rotation),
            "pixel": round(float(first.pixel), 4),
        }
    ]
