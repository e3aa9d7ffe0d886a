"""A picture of what `curate` kept and what it dropped for which reason, a frame of each kind, for docs/data.md:

python -m experiments.films.reasons --data data/curated --film bbb.mp4 --out docs/data_reasons.jpg
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

from bvjax import console
from bvjax.errors import UserError
from bvjax.files import read_json_lines, write_atomic
from bvjax.media.source_video import fitted, pick_frames
from data_pipelines.curation.chunks import jpeg
from data_pipelines.curation.rows import is_kept

SIZE = (144, 256)  # of a frame
LINE = 16  # pixels of a line of words
FPS = 8


def examples(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The longest take of each kind of a film: "kept", or why it was dropped. Raises `UserError` without any."""
    found: dict[str, dict[str, Any]] = {}
    length = lambda row: row["stop"] - row["start"]
    for row in rows:
        kind = "kept" if is_kept(row) else row["dropped"]["kind"]
        if "start" in row and (kind not in found or length(row) > length(found[kind])):
            found[kind] = row
    if not found:
        raise UserError("the film has no takes")
    return found


def draw(rows: list[dict[str, Any]]) -> np.ndarray:
    """RGB: four frames to a line, each with its kind and its take's time above it."""
    kinds = examples(rows)
    times = {kind: middle(row) for kind, row in kinds.items()}
    path, film = rows[0]["path"], rows[0]["film"]
    shown = dict(pick_frames(path, FPS, (round(t * FPS) for t in times.values()), film))
    height, width = SIZE[0] + LINE, SIZE[1]
    lines = -(-len(kinds) // 4)
    sheet = PIL.Image.new("RGB", (4 * width, lines * height), "white")
    pen = PIL.ImageDraw.Draw(sheet)
    for number, (kind, row) in enumerate(kinds.items()):
        x, y = number % 4 * width, number // 4 * height
        pen.text((x + 4, y + 2), f"{kind}: {row['start']:.1f} to {row['stop']:.1f} s", "black")
        picture = fitted(shown[round(times[kind] * FPS)], SIZE[0], SIZE[1] - 4)
        sheet.paste(PIL.Image.fromarray(picture), (x, y + LINE))
    return np.asarray(sheet)


def middle(row: dict[str, Any]) -> float:
    """A second in the middle of a take, or of its chunks."""
    chunks = row.get("chunks")
    if chunks:
        return (chunks[0]["start"] + chunks[-1]["stop"]) / 2 / row["rate"]
    return (row["start"] + row["stop"]) / 2


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and draw; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.films.reasons")
    parser.add_argument("--data", type=console.path, required=True, metavar="DIR")
    parser.add_argument("--film", required=True, help="its name in the manifest")
    parser.add_argument("--out", type=console.path, required=True, metavar="JPEG")
    a = parser.parse_args(argv)

    def command() -> None:
        lines = read_json_lines(a.data / "manifest.jsonl", "the manifest")
        rows = [row for _, row in lines if row.get("film") == a.film]
        if not rows:
            raise UserError(f"the manifest has no film {a.film}")
        write_atomic(Path(a.out), jpeg(draw(rows)))

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
