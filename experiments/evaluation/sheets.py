"""Numbered pictures for eyes, and the counting of what they named."""

from __future__ import annotations

import csv
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from bvjax.errors import UserError
from bvjax.lvbench.intervals import rate
from data_pipelines.storyworld import COLOURS, SPECIES

COLUMNS, ROWS, SCALE, LABEL = 4, 4, 3, 14  # of a sheet; times that pixels are enlarged
HEADS = ("species", "colour")


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
