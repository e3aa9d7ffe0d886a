"""The last stage: takes to `data_pipelines.encode`, each film on one side of the split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from bvjax.errors import UserError
from bvjax.tokenizer import Tokenizer
from bvjax.weights import TOKENIZER, load_config
from data_pipelines.curation.rows import Row, dropped, is_kept
from data_pipelines.encoded.film import Film, shortened
from data_pipelines.encoded.film_folder import sides_of
from data_pipelines.encoded.windows import Take

WHOLE = "whole"  # of a chunk whose caption was shortened: the caption before


def films_of(
    films: Mapping[str, list[Row]], videos: Path, root: Path, weights: Path, seed: int
) -> tuple[list[Film], dict[str, list[Row]]]:
    """Films to encode, and the rows with captions that the text encoder has room for: `whole` is a longer one.

    All takes of a film are on the same side of the split: that of the films' split.json, or else drawn and kept in
    ROOT/split.json.
    """
    tokenizer = Tokenizer(weights / TOKENIZER)
    room = load_config(weights).text.max_length
    rows = {name: [_fitting(row, tokenizer, room) for row in of] for name, of in films.items()}
    usable = {name: [row for row in of if is_kept(row)] for name, of in rows.items()}
    names = [name for name, of in usable.items() if of]
    sides = sides_of(videos, root, names, seed, films) if names else {}
    found = []
    for name in names:
        first, takes = usable[name][0], sorted(usable[name], key=lambda row: row["first"])
        cut = tuple(Take(row["first"], tuple(c["caption"] for c in row["chunks"])) for row in takes)
        found.append(Film(name, Path(first["path"]), cut, sides[name], first["sha256"]))
    return found, rows


def no_longer_wanted(films: Mapping[str, list[Row]]) -> list[str]:
    """Films of which stages decided against everything; where work only failed, the next run decides."""
    return [
        name
        for name, of in films.items()
        if all(not is_kept(row) and row["dropped"]["kind"] != "failed" for row in of)
    ]


def shortened_in(rows: Iterable[Row]) -> dict[str, int]:
    """{film: how many captions were shortened}, of takes that are kept."""
    counts: dict[str, int] = {}
    for row in rows:
        count = sum(WHOLE in chunk for chunk in row.get("chunks", ())) if is_kept(row) else 0
        if count:
            counts[row["film"]] = counts.get(row["film"], 0) + count
    return counts


def _fitting(row: Row, tokenizer: Tokenizer, room: int) -> Row:
    if not is_kept(row):
        return row
    told = []
    for chunk in row["chunks"]:
        caption = shortened(chunk["caption"], tokenizer, room)
        whole = {} if caption == chunk["caption"] else {WHOLE: chunk["caption"]}
        told.append({**chunk, "caption": caption, **whole})
    row = {**row, "chunks": told}
    try:
        tokenizer.encode([chunk["caption"] for chunk in told], room)
    except UserError as error:  # of a single word
        return dropped(row, "encode", "caption too long", str(error))
    return row
