"""Chunks: a take cut as the model that is to be trained cuts videos, and keyframes of every chunk."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import PIL.Image

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.files import write_atomic
from bvjax.media.source_video import fitted, pick_frames
from data_pipelines.curation.rows import Row, dropped, is_kept, short_name
from data_pipelines.curation.settings import Chunks

KEYFRAMES = "keyframes"


def chunks(row: Row, settings: Chunks, model: ModelConfig) -> list[Row]:
    """Adds `first`, the number of the take's first frame at the model's rate, and `chunks`.

    A chunk has `id`, `start` and `stop` (frames, counted from the film's first one) and `caption`, "". The frame
    nearest to each of their times lies inside the take.
    """
    fps, grid = model.chunk.fps, ChunkGrid.of(model)
    half = 0.5 / row["fps"] if row["fps"] else 0.0
    first = math.ceil(row["start"] * fps - 1e-6)
    frames = math.floor((row["stop"] - half) * fps + 1e-6) + 1 - first
    count = grid.chunks_in(frames)
    row = {**row, "first": first, "rate": fps}
    if count < settings.least:
        why = f"it has {count} chunks of {grid.seconds_per_chunk:g} s, chunks.least is {settings.least}"
        return [dropped({**row, "chunks": []}, "chunks", "too few chunks", why)]
    ranges = [
        ChunkGrid.of(model, count).frame_range(i) for i in ChunkGrid.of(model, count).chunk_ids
    ]
    cut = [
        {"id": f"{row['id']}.{i:03d}", "start": first + start, "stop": first + stop, "caption": ""}
        for i, (start, stop) in enumerate(ranges)
    ]
    return [{**row, "chunks": cut}]


def keyframes(rows: Sequence[Row], settings: Chunks, model: ModelConfig, root: Path) -> list[Row]:
    """Writes the keyframes of a film's chunks, as the model will see them but larger; the film is decoded once.

    Adds `keyframes` to every chunk: paths below `root`. Raises `UserError` for a film that has changed meanwhile.
    """
    places: dict[int, list[Path]] = {}
    out: list[Row] = []
    for row in rows:
        if not is_kept(row):
            out.append(row)
            continue
        folder, cut = Path(KEYFRAMES) / short_name(row["id"]), []
        for number, chunk in enumerate(row["chunks"]):
            paths = []
            for j in range(settings.keyframes):
                at = (j + 0.5) / settings.keyframes
                frame = chunk["start"] + int(at * (chunk["stop"] - chunk["start"]))
                paths.append(folder / f"{number:04d}_{j}.jpg")
                places.setdefault(frame, []).append(paths[-1])
            cut.append({**chunk, "keyframes": [path.as_posix() for path in paths]})
        (root / folder).mkdir(parents=True, exist_ok=True)
        out.append({**row, "chunks": cut})
    if places:
        row = next(row for row in rows if is_kept(row))
        height, width = keyframe_size(model, settings.keyframe_side)
        for k, shown in pick_frames(row["path"], row["rate"], places, row["film"]):
            content = jpeg(fitted(shown, height, width))
            for path in places.pop(k):
                write_atomic(root / path, content)
    return out


def keyframe_size(model: ModelConfig, side: int) -> tuple[int, int]:
    """(height, width) of the model's shape with this shorter side, both even."""
    height, width = model.chunk.height, model.chunk.width
    scale = side / min(height, width)
    return 2 * round(height * scale / 2), 2 * round(width * scale / 2)


def jpeg(picture) -> bytes:
    """A picture as a JPEG file."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def split_take(
    row: Row, good: Sequence[bool], stage: str, kind: str, why: str, least: int
) -> list[Row]:
    """The runs of good chunks of a take, `least` chunks long or more, each as a take of its own.

    Args:
        row: a take with chunks.
        good: whether each chunk may stay.
        stage: that decided so.
        kind: by which what is dropped is counted.
        why: what is said of a take, or a piece of one, that is dropped.
        least: chunks.
    """
    if all(good):
        return [row]
    out, run = [], []
    for number, keep in enumerate([*good, False]):
        if keep:
            run.append(number)
            continue
        if run:
            piece = _piece(row, run)
            short = f"{why}; what is left has {len(run)} chunks, chunks.least is {least}"
            out.append(piece if len(run) >= least else dropped(piece, stage, kind, short))
        run = []
    return out or [dropped(row, stage, kind, why)]


def _piece(row: Row, numbers: Sequence[int]) -> Row:
    if len(numbers) == len(row["chunks"]):
        return row
    cut = [row["chunks"][n] for n in numbers]
    offset = cut[0]["start"] - row["chunks"][0]["start"]
    name = f"{cut[0]['id']}-{numbers[-1]:03d}"
    return {**row, "id": name, "first": row["first"] + offset, "chunks": cut}
