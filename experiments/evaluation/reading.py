"""Pictures read by eyes: a sheet without words, and answers counted against what it was to show.

    python -m experiments.evaluation.reading --weights=runs/mini --out=runs/reading --count=64
    python -m experiments.evaluation.reading --out=runs/reading --answers=answers.csv --reader="a person who ..."

The first command writes numbered sheets and key.json. Whoever reads sees the sheets and the lists of names alone. An
answer is a line `number,species,colour`; "cannot tell" counts as wrong. The second writes reading.json.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags, logging
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from bvjax import console
from bvjax.errors import UserError
from bvjax.files import read_json, read_text, write_atomic
from bvjax.lvbench.intervals import rate
from data_pipelines.storyworld import COLOURS, SPECIES
from experiments.evaluation.pictures import answers, asked, generate
from experiments.evaluation.under_test import UnderTest

COLUMNS, ROWS, SCALE, LABEL = 4, 4, 3, 14  # of a sheet; times that pixels are enlarged
HEADS = ("species", "colour")

_WEIGHTS = flags.DEFINE_string(
    "weights", "bvjax/assets/mini", "Weights folder whose pictures are read."
)
_OUT = flags.DEFINE_string("out", "runs/reading", "Folder of the sheets.")
_COUNT = flags.DEFINE_integer("count", 64, "Pictures.", lower_bound=1)
_FIRST = flags.DEFINE_integer("first_seed", 2000, "First held-out panorama.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise.", lower_bound=0)
_SET = flags.DEFINE_multi_string("set", [], "Override of the model, e.g. sampler.steps=10.")
_ANSWERS = flags.DEFINE_string("answers", None, "File of answers to count.")
_READER = flags.DEFINE_string("reader", None, "Who read: a person or a model, and what they knew.")


def sheets(frames: UInt8[np.ndarray, "n h w 3"], first: int = 1) -> list[Image.Image]:
    """Numbered pictures, sixteen on a sheet, enlarged smoothly."""
    pages, height, width = [], frames.shape[1] * SCALE, frames.shape[2] * SCALE
    for start in range(0, len(frames), COLUMNS * ROWS):
        part = frames[start : start + COLUMNS * ROWS]
        page = Image.new("RGB", (COLUMNS * (width + 6), ROWS * (height + LABEL + 4)), "white")
        draw = ImageDraw.Draw(page)
        for i, frame in enumerate(part):
            x, y = i % COLUMNS * (width + 6), i // COLUMNS * (height + LABEL + 4)
            draw.text((x + 2, y + 1), str(first + start + i), fill="black")
            large = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
            page.paste(large, (x, y + LABEL))
        pages.append(page)
    return pages


def count_answers(key: list[dict[str, str]], text: str) -> dict[str, Any]:
    """Rates of right answers, with intervals.

    Args:
        key: what each picture was to show.
        text: lines `number,species,colour`, numbers from 1; a picture without a line is wrong.

    Raises:
        UserError: a line is not one, or names what is not in the lists.
    """
    given: dict[int, tuple[str, ...]] = {}
    for line in csv.reader(text.splitlines()):
        if not line or line[0].strip().lower() in ("number", ""):
            continue
        cells = [cell.strip().lower() for cell in line]
        if len(cells) != 3 or not cells[0].isdigit() or not 1 <= int(cells[0]) <= len(key):
            raise UserError(
                f"an answer is number,species,colour with a number from 1 to {len(key)}, not {','.join(line)!r}"
            )
        for cell, names in zip(cells[1:], (SPECIES, COLOURS), strict=True):
            if cell not in (*names, "cannot tell"):
                raise UserError(f"{cell!r} is none of {', '.join(names)}, cannot tell")
        given[int(cells[0])] = tuple(cells[1:])
    right = [
        [
            head_given == truth[head]
            for head, head_given in zip(HEADS, given.get(i, ("", "")), strict=True)
        ]
        for i, truth in enumerate(key, 1)
    ]
    rates = {head: rate([row[i] for row in right]) for i, head in enumerate(HEADS)}
    return rates | {"both": rate([all(row) for row in right])}


def draw_sheets(out: Path) -> None:
    """Writes the sheets and their key; unselected: the first panoramas that have a subject alone."""
    tested = UnderTest.load(_WEIGHTS.value, tuple(_SET.value))
    items, index = [], _FIRST.value
    while len(items) < _COUNT.value:
        item = asked(index, tested)
        items += [] if item is None else [item]
        index += 1
    frames = generate(tested, items, _SEED.value)
    out.mkdir(parents=True, exist_ok=True)
    for number, page in enumerate(sheets(frames), 1):
        page.save(out / f"sheet_{number}.png")
    made = {
        "command": " ".join(["python -m experiments.evaluation.reading", *sys.argv[1:]]),
        "weights": tested.sha256,
        "key": answers(items),
    }
    write_atomic(out / "key.json", json.dumps(made, indent=1).encode())
    print(f"wrote {out}: species {', '.join(SPECIES)}; colours {', '.join(COLOURS)}")


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]!r}")
        out = console.path(_OUT.value)
        if _ANSWERS.value is None:
            draw_sheets(out)
            return 0
        if not _READER.value:
            raise UserError("--reader says who read the sheets: a person or a model")
        content = read_json(out / "key.json")
        text = read_text(Path(_ANSWERS.value))
        result = count_answers(content["key"], text) | {"reader": _READER.value, "answers": text}
        write_atomic(out / "reading.json", json.dumps(result, indent=1).encode())
        for head in (*HEADS, "both"):
            entry = result[head]
            print(f"{head:8s} {100 * entry['rate']:5.1f} %  (n = {entry['n']})")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    console.run_flags(main)
