"""What `curate` has written, looked at as if a stranger had: every row by its schema, and rows beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bvjax.errors import UserError
from bvjax.files import parse_json, read_json
from bvjax.lvbench.dataset.files import Problem
from data_pipelines.curation.captions import WANTED
from data_pipelines.curation.json_schema import problems, rows_schema
from data_pipelines.curation.report import REPORT
from data_pipelines.curation.reviews import FOLDER as REVIEW
from data_pipelines.curation.reviews import check_reviewer
from data_pipelines.curation.rows import Row, is_kept
from data_pipelines.curation.stages import NAMES

MANIFEST = "manifest.jsonl"
ORDER = ("films", *NAMES, "encode")
# A field by which rows show how far they have come, the last stage first.
_MARKS = (("captioned", "align"), ("quality", "quality"), ("motion", "motion"), ("start", "takes"),
          ("frames", "scenes"), ("sha256", "probe"))  # fmt: skip
_BULK = {"scenes": ("cuts", "tracks")} | {
    name: ("tracks",) for name in ("takes", "duplicates", "motion")
}


def check_curated(root: Path) -> tuple[list[Problem], dict[str, int]]:
    """What is wrong with a folder that `curate` has written, but for its latents, and how much was looked at.

    Raises:
        UserError: it has no manifest.
    """
    if not (root / MANIFEST).is_file():
        raise UserError(f"{root} has no {MANIFEST}; python -m data_pipelines.curate makes it")
    found: list[Problem] = []
    rows = _objects(root, MANIFEST, found)
    found += check_manifest(rows, root)
    counts = {"rows": len(rows), "chunks": sum(len(_chunks(row)) for _, row in rows)}
    for path in sorted((root / "stages").glob("*.jsonl")):
        counts["lines of stages"] = counts.get("lines of stages", 0) + _journal(root, path, found)
    for path in sorted((root / REVIEW).glob("*.jsonl")):
        counts["decisions"] = counts.get("decisions", 0) + _reviews(root, path, found)
    if (root / WANTED).exists():
        for place, line in _objects(root, WANTED, found):
            found += _by_schema(place, line, "wanted")
    return found + _report(root, rows), counts


# ---- the manifest -----------------------------------------------------------------------------------
def reached(rows: Iterable[Row]) -> str:
    """The stage that the rows of a manifest have come to, by the fields that any of them has."""
    most = "films"
    for row in rows:
        chunks = _chunks(row)
        stage = next((stage for mark, stage in _MARKS if mark in row), "films")
        if is_kept(row) and chunks and isinstance(chunks[0], dict):
            if "reviewers" in chunks[0]:
                stage = "review"
            elif stage != "align":
                stage = "keyframes" if "keyframes" in chunks[0] else "chunks"
        most = max(most, stage, key=ORDER.index)
    return most


def check_manifest(rows: list[tuple[str, Row]], root: Path) -> list[Problem]:
    """What is wrong with the rows of a manifest, each with its place."""
    stage = reached(row for _, row in rows)
    found: list[Problem] = []
    ids: set[str] = set()
    for place, row in rows:
        wrong = _by_schema(place, row, stage_of(row, stage))
        if not wrong:  # fields are there and of their types
            wrong = [Problem(place, text) for text in _within(row, root)]
            names = [row["id"], *(chunk["id"] for chunk in _chunks(row))]
            wrong += [Problem(place, f"the id {n!a} is there twice") for n in names if n in ids]
            ids.update(names)
        found += wrong
    return found


def stage_of(row: Row, stage: str) -> str:
    """The stage whose schema a row must keep to: one that was dropped has what it had before."""
    if is_kept(row):
        return stage
    dropped = row["dropped"]
    by = dropped.get("stage") if isinstance(dropped, dict) else None
    if by == "takes" and "start" in row:
        return by  # a take that is too short
    return ORDER[ORDER.index(by) - 1] if by in ORDER[1:] else "row"


def _within(row: Row, root: Path) -> Iterator[str]:
    """What is wrong with a row whose fields are those of its schema."""
    if "start" in row and row["start"] > row["stop"]:
        yield f"the take begins at {row['start']} s and ends at {row['stop']} s"
    end = row.get("first", 0)
    for number, chunk in enumerate(_chunks(row)):
        name = f"chunk {number}"
        if not end <= chunk["start"] < chunk["stop"]:
            yield f"{name} has the frames {chunk['start']} to {chunk['stop']}; they must be after frame {end}, in order"
        elif "start" in row and is_kept(row) and chunk["stop"] > row["stop"] * row["rate"] + 1:
            yield f"{name} ends at frame {chunk['stop']}, after its take"
        end = max(end, chunk["stop"])
        for path in chunk.get("keyframes", ()) if is_kept(row) else ():
            try:
                with open(root / path, "rb") as file:
                    good = file.read(2) == b"\xff\xd8"
            except OSError:
                good = False
            if not good:
                yield f"{name}: {path} is no JPEG file"


def _chunks(row: Row) -> list[Any]:
    chunks = row.get("chunks")
    return chunks if isinstance(chunks, list) else []


# ---- the other files ----------------------------------------------------------------------------------
def _objects(root: Path, name: str, found: list[Problem]) -> list[tuple[str, dict[str, Any]]]:
    """(place, object) of the lines of a file; what is no object goes to `found`."""
    out = []
    for number, line in enumerate((root / name).read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        try:
            value = parse_json(line, "it")
        except UserError as error:
            found.append(Problem(place, str(error)))
            continue
        if isinstance(value, dict):
            out.append((place, value))
        else:
            found.append(Problem(place, "it is not an object"))
    return out


def _by_schema(place: str, value: Any, name: str) -> list[Problem]:
    return [Problem(place, text) for text in problems(value, name, rows_schema(), "it")]


def _journal(root: Path, path: Path, found: list[Problem]) -> int:
    stage = path.stem
    if stage not in NAMES:
        found.append(Problem(f"stages/{path.name}", "there is no stage of this name"))
        return 0
    entries = _objects(root, f"stages/{path.name}", found)
    for place, entry in entries:
        wrong = _by_schema(place, entry, "journal")
        for number, row in enumerate(entry["rows"] if not wrong else ()):
            at = f"{place}, row {number}"
            wrong += _by_schema(at, row, stage_of(row, stage))
            lacking = [k for k in _BULK.get(stage, ()) if k not in row] if is_kept(row) else []
            if lacking:
                wrong.append(Problem(at, f"it has no {', '.join(lacking)}"))
        found += wrong
    return len(entries)


def _reviews(root: Path, path: Path, found: list[Problem]) -> int:
    name = f"{REVIEW}/{path.name}"
    try:
        check_reviewer(path.stem)
    except UserError as error:
        found.append(Problem(name, str(error)))
    lines = _objects(root, name, found)
    for place, line in lines:
        found += _by_schema(place, line, "undo" if "undo" in line else "decision")
    return len(lines)


def _report(root: Path, rows: list[tuple[str, Row]]) -> list[Problem]:
    """What is wrong with report.json, by its schema and beside the manifest."""
    path = root / REPORT
    if not path.exists():
        return [Problem(REPORT, "is missing: the last run was not finished")]
    try:
        report = read_json(path)
    except UserError as error:
        return [Problem(REPORT, str(error))]
    found = _by_schema(REPORT, report, "report")
    if found:
        return found
    takes = [row for _, row in rows if is_kept(row) and "start" in row]
    counts = {"takes": len(takes), "chunks": sum(len(_chunks(row)) for row in takes)}
    return [
        Problem(REPORT, f"counts {report[name]} {name}; the manifest has {count}")
        for name, count in counts.items()
        if report[name] != count
    ]
