"""Rows of the manifest: a film at first, then its takes; JSON values alone.

Every row has `id`, `film` (its name below the folder) and `path`. One that a stage decided against stays, with
`dropped` = {"stage", "why"}, and later stages leave it as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from bvjax.errors import UserError

Row = dict[str, Any]
BULKY = ("tracks", "cuts")  # of a row, what the manifest is written without


def dropped(row: Row, stage: str, kind: str, why: str) -> Row:
    """The row with the decision against it: a word or two by which it is counted, and, in one sentence, why."""
    return {**row, "dropped": {"stage": stage, "kind": kind, "why": " ".join(why.split())}}


def is_kept(row: Row) -> bool:
    """Returns whether no stage has decided against a row."""
    return "dropped" not in row


def each(
    stage: str, function: Callable[[Row, Any], list[Row]]
) -> Callable[[list[Row], Any], list[Row]]:
    """A stage of rows that do not depend on each other; a `UserError` decides against the row it is about."""

    def rows_of(rows: list[Row], settings: Any) -> list[Row]:
        out: list[Row] = []
        for row in rows:
            if not is_kept(row):
                out.append(row)
                continue
            try:
                out += function(row, settings)
            except UserError as error:
                out.append(dropped(row, stage, "cannot be read", str(error)))
        return out

    return rows_of


def by_film(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by their film, in the order in which they come."""
    films: dict[str, list[Row]] = {}
    for row in rows:
        films.setdefault(row["film"], []).append(row)
    return films


def digest(content: Any) -> str:
    """A hash of JSON values, whatever the order of keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def short_name(text: str) -> str:
    """A name for files and folders, the same for the same text and never anything else than a name."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def without_bulk(row: Row) -> Row:
    """The row as the manifest has it."""
    return {key: value for key, value in row.items() if key not in BULKY}
