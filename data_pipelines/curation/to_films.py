"""The last stage: takes to `data_pipelines.encode`, the split drawn by film."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bvjax.errors import UserError
from bvjax.tokenizer import Tokenizer
from bvjax.weights import TOKENIZER, load_config
from data_pipelines.curation.rows import Row, dropped, is_kept
from data_pipelines.encoded.film import Film
from data_pipelines.encoded.film_folder import sides_of
from data_pipelines.encoded.windows import Take


def films_of(
    films: Mapping[str, list[Row]], root: Path, weights: Path, seed: int
) -> tuple[list[Film], dict[str, list[Row]]]:
    """Films to encode, and the rows, of which those are dropped whose captions the text encoder has no room for.

    All takes of a film are on the same side of the split, which is kept in ROOT/split.json.
    """
    tokenizer = Tokenizer(weights / TOKENIZER)
    room = load_config(weights).text.max_length
    rows = {name: [_checked(row, tokenizer, room) for row in of] for name, of in films.items()}
    usable = {name: [row for row in of if is_kept(row)] for name, of in rows.items()}
    names = [name for name, of in usable.items() if of]
    sides = sides_of(None, root, names, seed) if names else {}
    found = []
    for name in names:
        takes = tuple(
            Take(row["first"], tuple(chunk["caption"] for chunk in row["chunks"]))
            for row in sorted(usable[name], key=lambda row: row["first"])
        )
        found.append(Film(name, Path(usable[name][0]["path"]), takes, sides[name]))
    return found, rows


def _checked(row: Row, tokenizer: Tokenizer, room: int) -> Row:
    if not is_kept(row):
        return row
    try:
        tokenizer.encode([chunk["caption"] for chunk in row["chunks"]], room)
    except UserError as error:
        return dropped(row, "encode", "caption too long", str(error))
    return row
