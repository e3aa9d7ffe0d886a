"""Results on disk: a summary to read, and a record per case so that work can stop and go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bvjax.errors import UserError
from bvjax.files import read_json_object, write_atomic

Record = dict[str, Any]


def by_arm(records: dict[str, Record]) -> dict[str, list[Record]]:
    """Returns records whose names are "arm | ...", by arm."""
    arms: dict[str, list[Record]] = {}
    for name, record in records.items():
        arms.setdefault(name.split(" | ")[0], []).append(record)
    return arms


class Results:
    """OUT.json holds {part: {fingerprint, provenance, result}}, OUT.records.json its records.

    Both are replaced as a whole.  Records are only ever continued under the fingerprint (weights,
    settings) that they began with.
    """

    def __init__(self, path: str | Path):
        """Raises `UserError` when a file is damaged."""
        self.path = Path(path)
        self.parts = _read(self.path)
        self._records = _read(self._records_path)

    @property
    def _records_path(self) -> Path:
        return self.path.with_suffix(".records.json")

    def records(self, part: str, fingerprint: dict[str, Any]) -> dict[str, Record]:
        """The records of a part so far, by case; add to them and call `save`.

        Raises:
            UserError: they were made with another fingerprint; the message names what differs.
        """
        stored = self._records.setdefault(part, {"fingerprint": fingerprint, "records": {}})
        old, new = stored["fingerprint"], json.loads(json.dumps(fingerprint))
        if old != new and stored["records"]:
            keys = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
            raise UserError(
                f"{self.path} holds results of part {part!r} with another {', '.join(keys)}; "
                "give another `out`"
            )
        stored["fingerprint"] = new
        return stored["records"]

    def save(self) -> None:
        """Writes the records."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._records_path, json.dumps(self._records).encode())

    def finish(self, part: str, result: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Writes the summary of a part, with what it was made by."""
        self.save()
        fingerprint = self._records[part]["fingerprint"]
        self.parts[part] = {"fingerprint": fingerprint, "provenance": provenance, "result": result}
        write_atomic(self.path, (json.dumps(self.parts, indent=1) + "\n").encode())


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return read_json_object(path)
    except UserError as error:
        raise UserError(f"{error}; delete it to start again") from None
