"""Scalars over time: one metrics.csv in the run's folder, and event files where tensorboardX is installed."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging


class MetricWriter:
    """Appends scalars; one CSV row a step.

    A resumed run begins at `start_step`: rows after it are dropped, so that no step appears twice.
    """

    def __init__(self, folder: Path, start_step: int = 0):
        self._path = Path(folder) / "metrics.csv"
        self._rows: list[dict[str, str]] = []
        if self._path.exists():
            self._rows = [row for row in self._read() if _step(row) <= start_step]
        self._columns = _columns(self._rows)
        self._rewrite()
        self._events = _event_writer(folder, start_step)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds scalars of `step`; several writes of one step share a row."""
        values = {name: repr(float(value)) for name, value in scalars.items()}
        new_columns = [name for name in values if name not in self._columns]
        same_step = bool(self._rows) and _step(self._rows[-1]) == step
        if same_step:
            self._rows[-1].update(values)
        else:
            self._rows.append({"step": str(step), **values})
        if new_columns or same_step:
            self._columns += new_columns
            self._rewrite()
        else:
            with open(self._path, "a", newline="", encoding="utf-8") as f:
                csv.DictWriter(f, self._columns, restval="").writerow(self._rows[-1])
        if self._events is not None:
            for name, value in scalars.items():
                self._events.add_scalar(name, float(value), step)

    def flush(self) -> None:
        """Sends to disk what event files still hold back; metrics.csv never does."""
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()

    # ---- inside -------------------------------------------------------------------------------
    def _read(self) -> list[dict[str, str]]:
        """The rows of the file; a damaged one is left out, for the training does not need them."""
        with open(self._path, newline="", encoding="utf-8", errors="replace") as f:
            lines = (line.replace("\0", "") for line in f)
            rows = csv.DictReader(lines, quoting=csv.QUOTE_NONE)
            try:
                complete = [row for row in rows if None not in row]
                has_step = rows.fieldnames is None or "step" in rows.fieldnames
            except csv.Error:  # a field of megabytes
                complete, has_step = [], False
        if not has_step:
            os.replace(self._path, self._path.with_suffix(".csv.damaged"))
        return [
            {name: value for name, value in row.items() if name} for row in complete if has_step
        ]

    def _rewrite(self) -> None:
        temporary = self._path.with_suffix(".csv.tmp")
        with open(temporary, "w", newline="", encoding="utf-8") as f:
            table = csv.DictWriter(f, self._columns, restval="")
            table.writeheader()
            table.writerows(self._rows)
        os.replace(temporary, self._path)


class NoWriter(MetricWriter):
    """Writes nothing: what processes other than the first have."""

    def __init__(self) -> None:
        pass

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _event_writer(folder: Path, start_step: int) -> Any | None:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        logging.info("no tensorboardX here: the scalars go to metrics.csv alone")
        return None
    return SummaryWriter(str(folder), purge_step=start_step + 1, flush_secs=30)


def _step(row: Mapping[str, str]) -> int:
    """A row cut off in the middle of its step number counts as never written."""
    try:
        return int(row["step"])
    except (KeyError, TypeError, ValueError):
        return 2**62


def _columns(rows: list[dict[str, str]]) -> list[str]:
    return list(dict.fromkeys(["step", *(name for row in rows for name in row if name)]))
