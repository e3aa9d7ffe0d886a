"""Running stages: what is journaled with the same inputs is taken, the rest is done and journaled."""

from __future__ import annotations

import collections
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from bvjax.files import DISK_FULL, write_atomic
from bvjax.plain_text import shown
from data_pipelines.curation.journal import Journal
from data_pipelines.curation.pool import Failed, run_all
from data_pipelines.curation.rows import Row, by_film, digest, dropped, is_kept, without_bulk
from data_pipelines.curation.stages import Context, Stage

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
ALL = ""  # the film under which what sees all films is journaled


def run_stage(
    stage: Stage,
    films: dict[str, list[Row]],
    context: Context,
    workers: int,
    track: Track = lambda items, name, total: items,
) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """The rows that a stage makes of films' rows, and what is reported of it.

    A film at which the work failed (not one that is no good: that is a decision) stays out of the journal, is dropped
    for now, and is tried again by the next run.

    Args:
        stage: one of `stages.STAGES`.
        films: rows by film.
        context: beside them.
        workers: processes; 0 works here.
        track: follows the work for a progress bar.
    """
    if stage.pool == "whole":
        groups = {ALL: [row for rows in films.values() for row in rows]}
    else:
        groups = films
    inputs = {
        name: digest([stage.version, stage.inputs(rows, context), rows])
        for name, rows in groups.items()
    }
    found: dict[str, list[Row]] = {}
    failed: dict[str, str] = {}
    began = time.perf_counter()
    with Journal(context.root / "stages" / f"{stage.name}.jsonl") as journal:
        for name in groups:
            rows = journal.rows(name, inputs[name])
            if rows is not None:
                found[name] = rows
        before = len(found)
        todo = [
            (name, (stage.function, rows, context))
            for name, rows in groups.items()
            if name not in found
        ]
        count = workers if stage.pool == "processes" else 0
        if stage.pool == "threads":
            count = context.settings.captions.concurrency
        kind = "threads" if stage.pool == "threads" else "processes"
        results = run_all(work, todo, min(count, len(todo)), kind)
        for name, result in track(results, stage.name, len(todo)):
            if isinstance(result, Failed):
                failed[name] = result.why
                found[name] = [failed_row(row, stage.name, result.why) for row in groups[name]]
            else:
                journal.add(name, inputs[name], result)
                found[name] = result
    rows_out = [row for name in groups for row in found[name]]
    out = by_film(rows_out) if stage.pool == "whole" else {name: found[name] for name in groups}
    report = summary(stage.name, rows_out)
    report |= {
        "films": len(todo),
        "films before": before,
        "seconds": round(time.perf_counter() - began, 3),
        "failed": failed,
        "damaged lines": journal.damaged,
    }
    return out, report


def work(piece: tuple[Callable[..., list[Row]], list[Row], Context]) -> list[Row]:
    """The rows that a function makes of rows; raises `OSError` of a full disk alone."""
    function, rows, context = piece
    try:
        return function(rows, context)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise RuntimeError(str(error)) from None


def failed_row(row: Row, stage: str, why: str) -> Row:
    """A row at which the work failed, not for what it is."""
    return dropped(row, stage, "failed", f"not done: {why}") if is_kept(row) else row


def summary(name: str, rows: list[Row]) -> dict[str, Any]:
    """Counts of a stage: rows that are left, and those that it dropped, by kind of reason."""
    gone = [row["dropped"] for row in rows if not is_kept(row) and row["dropped"]["stage"] == name]
    return {
        "stage": name,
        "kept": sum(map(is_kept, rows)),
        "dropped": len(gone),
        "why": dict(collections.Counter(entry["kind"] for entry in gone).most_common()),
    }


def write_manifest(root: Path, films: dict[str, list[Row]]) -> None:
    """Writes ROOT/manifest.jsonl: every row with what was decided about it, without its samples."""
    content = io.BytesIO()  # once, however long it is
    for rows in films.values():
        for row in rows:
            content.write(json.dumps(without_bulk(row)).encode() + b"\n")
    write_atomic(root / "manifest.jsonl", content.getbuffer())


def problems(films: dict[str, list[Row]]) -> Iterator[str]:
    """A sentence for each film that could not be read at all."""
    for name, rows in films.items():
        for row in rows:
            if not is_kept(row) and row["dropped"]["stage"] in ("probe", "scenes"):
                yield f"{shown(name)}: {row['dropped']['why']}"
