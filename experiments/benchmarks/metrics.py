"""Single metrics with their targets, collected when several benchmarks run at once.

A benchmark calls `note`; where $BVJAX_FIGURES names a file, a line of JSON is added to it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

VARIABLE = "BVJAX_FIGURES"


def note(name: str, value: float, unit: str, target: float | None = None) -> None:
    """Notes a figure down.

    Args:
        target: what it should reach; seconds ("s") should stay below, anything else above.
    """
    if path := os.environ.get(VARIABLE):
        line = dict(name=name, value=value, unit=unit, target=target)
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def table(path: Path) -> str:
    """The metrics of a file as a table; of one name the last counts."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = {row["name"]: row for row in map(json.loads, lines)}
    lines = ["| figure | value | target | reached |", "|---|---:|---:|---|"]
    for row in rows.values():
        value, unit = row["value"], row["unit"]
        lines.append(
            f"| {row['name']} | {_number(value)} {unit} | {_target(row)} | {_reached(row)} |"
        )
    return "\n".join(lines)


def _target(row) -> str:
    if row["target"] is None:
        return ""
    return f"{'<=' if row['unit'] == 's' else '>='} {_number(row['target'])} {row['unit']}"


def _reached(row) -> str:
    if row["target"] is None:
        return ""
    low, high = sorted((row["value"], row["target"]))
    good = low if row["unit"] == "s" else high
    return "yes" if row["value"] == good else "no"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
