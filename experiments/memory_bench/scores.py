"""Records to rates with 95 % intervals (Wilson), by point."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bvjax.errors import UserError
from bvjax.lvbench.intervals import rate
from experiments.evaluation.cases import CHANCE
from experiments.evaluation.results import Record
from experiments.memory_bench.axes import Condition, Point
from experiments.memory_bench.cases import case_of
from experiments.memory_bench.running import TRUE

SUBJECT = ("species", "colour")


def summary(points: Iterable[Point], records: Mapping[str, Record]) -> dict[str, Any]:
    """{points: [scores of each that has records], true chunk: scores or None, chance}.

    Raises `UserError` for records that no run wrote.
    """
    by_condition: dict[Condition | str, list[Record]] = {}
    for name, record in records.items():
        key, _, settings = name.partition(" | ")
        case = case_of(key)
        if not isinstance(record.get("right"), Mapping):
            raise UserError(f"the record {name!r} is damaged")
        condition: Condition | str = TRUE
        if settings != TRUE:
            condition = Condition(case.staging, case.wording, tuple(settings.split()))
        by_condition.setdefault(condition, []).append(record)
    rows = []
    for point in points:
        if of_point := by_condition.get(point.condition):
            about = {"axis": point.axis, "series": point.series, "value": point.value}
            condition = dataclasses.asdict(point.condition)
            rows.append({**about, "condition": condition, **scores(of_point)})
    true = by_condition.get(TRUE)
    return {"points": rows, TRUE: scores(true) if true else None, "chance": dict(CHANCE)}


def scores(records: Sequence[Record]) -> dict[str, Any]:
    """Rates over records; those that nothing was asked for have n = 0.

    subject: species and colour right.  met: the same in the chunk that introduces who returns.  place.
    same subject, same place: as the video itself introduced them.
    hit: an entry that introduces who returns was in the context.  kept: one was in the bank.
    """
    rights = [record["right"] for record in records]
    sames = [record.get("same", {}) for record in records]
    found = {"subject": rate([all(right[head] for head in SUBJECT) for right in rights])}
    for head in (*SUBJECT, "place"):
        found[head] = rate([right[head] for right in rights if head in right])
    mets = [record["introduced"] for record in records if "introduced" in record]
    found["met"] = rate([all(met[head] for head in SUBJECT) for met in mets])
    for what in ("subject", "place"):
        found[f"same {what}"] = rate([same[what] for same in sames if what in same])
    for name in ("hit", "kept"):
        found[name] = rate([record[name] for record in records if name in record])
    return found
