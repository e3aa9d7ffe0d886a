"""Results of a stage for each film: lines that are only ever added to a file, so that a kill costs the last one at most."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from bvjax.errors import UserError
from bvjax.files import parse_json
from data_pipelines.curation.rows import Row


class Journal:
    """The file ROOT/stages/NAME.jsonl: {"film", "input", "rows"} a line, the last line of a film counts.

    `input` is a hash of all that the rows depend on. Use as a context manager while writing.
    """

    def __init__(self, path: Path):
        """Reads what is there; a torn last line is cut off, other damaged lines are as if they were not there."""
        self._path, self._entries, self.damaged = path, {}, 0
        self._end = 0
        if not path.exists():
            return
        with open(path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._end += len(line)
                entry = _entry(line)
                if entry is None:
                    self.damaged += 1
                else:
                    self._entries[entry["film"]] = entry

    def rows(self, film: str, inputs: str) -> list[Row] | None:
        """Returns the result for a film of this input hash; None if there is none."""
        entry = self._entries.get(film)
        return entry["rows"] if entry and entry["input"] == inputs else None

    def __enter__(self) -> Journal:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._path, "ab")
        self._file.truncate(self._end)
        return self

    def add(self, film: str, inputs: str, rows: list[Row]) -> None:
        """Writes a line; raises `OSError` when the disk is full, which leaves the file as it was."""
        entry = {"film": film, "input": inputs, "rows": rows}
        line = json.dumps(entry, ensure_ascii=True).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError:
            with_end = os.open(self._path, os.O_WRONLY)
            os.ftruncate(with_end, self._end)
            os.close(with_end)
            raise
        self._end += len(line)
        self._entries[film] = entry

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
        except OSError:  # told of already by `add`
            pass


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = parse_json(line, "the line")
    except UserError:
        return None
    fits = (
        isinstance(entry, dict)
        and isinstance(entry.get("film"), str)
        and isinstance(entry.get("input"), str)
        and isinstance(entry.get("rows"), list)
        and all(
            isinstance(row, dict) and {"id", "film", "path"} <= row.keys() for row in entry["rows"]
        )
    )
    return entry if fits else None
