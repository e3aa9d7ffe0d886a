"""A chunk as a small mp4 that browsers and models play, made when it is first asked for."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from bvjax.media.source_video import fitted, pick_frames
from bvjax.media.video_io import VideoWriter
from data_pipelines.curation.rows import Row, short_name

CLIPS = "clips"
SIDE = 384  # pixels: the shorter side


def clip_path(root: Path, chunk: Row) -> Path:
    """The file of a chunk's clip, whether it is there or not."""
    state = f"{chunk['id']} {chunk['start']} {chunk['stop']}"
    return root / CLIPS / f"{short_name(state)}.mp4"


def chunk_clip(row: Row, chunk: Row, root: Path) -> Path:
    """The clip of a chunk of a take: its frames at the model's rate; raises `UserError` where the film is gone."""
    path = clip_path(root, chunk)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp.mp4")
    try:
        with VideoWriter(temporary, row["rate"]) as writer:
            wanted = range(chunk["start"], chunk["stop"])
            for _, shown in pick_frames(row["path"], row["rate"], wanted, row["film"]):
                height, width = shown.size
                writer.write(fitted(shown, *even_size(height, width, SIDE))[None])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def even_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) with a shorter side of `side` at most, both even, as H.264 wants them."""
    scale = min(1.0, side / min(height, width))
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))
