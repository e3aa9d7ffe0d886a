"""tables.json: what the tables found, computed from the results that are there."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from bvjax.files import read_json_object
from bvjax.versions import versions
from experiments.tables.measures import BY_GAP, COMPARED, MEASURES, SHOWN
from experiments.tables.orderings import Ordering, judged, sentence
from experiments.tables.rows import TABLES, Row, Table
from experiments.tables.run import Work
from experiments.tables.settings import Arm, not_made
from experiments.tables.statistics import (
    Difference,
    Values,
    by_story,
    compared,
    corrected,
    entry_of,
    smallest,
    summary,
)
from experiments.tables.training import FINISHED

FORMAT = "bvjax-tables-1"
POLICIES = "Rows are rules of inference over one model, not the published systems, which have weights of their own."
ABLATION = "All rows are one small model on storyworld, not the paper's model on real videos."


@dataclasses.dataclass(frozen=True)
class Measured:
    """A table with the results of its arms, and values out of them."""

    table: Table
    arms: tuple[Arm, ...]
    records: tuple[dict, ...]  # of each arm

    def values(self, place: int, measure: str) -> Values:
        return by_story(self.records[place], measure)

    def look(self, row: Row, tuned: bool, measure: str) -> Values | None:
        """A `orderings.Look`; None too where the arm has no value at all."""
        for place, arm in enumerate(self.arms):
            if arm.row is row and arm.tuned == tuned:
                return self.values(place, measure) or None
        return None

    @functools.cached_property
    def shown(self) -> list[str]:
        """All measures of the table."""
        return list(dict.fromkeys([*self.table.measures, *MEASURES_OF_ALL]))


MEASURES_OF_ALL = (*SHOWN, *BY_GAP, *(name for name in MEASURES if name.startswith("vde/")))


def build(work: Work, tables: Sequence[Table], command: str) -> dict[str, Any]:
    """The content of tables.json; a table is in it when two of its rows have results, or one and its fine-tune."""
    found = []
    for table in tables:
        arms = tuple(work.arms(table))
        with_results = [(arm, work.records(arm)) for arm in arms]
        with_results = [(arm, records) for arm, records in with_results if records]
        if len(with_results) > 1:
            measured = Measured(table, *zip(*with_results, strict=True))
            found.append(table_entry(work, measured))
    return {
        "format": FORMAT,
        "weights": dict(work.tested.sha256),
        "amounts": dataclasses.asdict(work.amounts),
        "command": command,
        "provenance": versions(),
        "measures": {name: MEASURES[name].title for name in MEASURES},
        "tables": found,
        "not_measured": [n for n in TABLES if all(entry["number"] != n for entry in found)],
    }


def table_entry(work: Work, measured: Measured) -> dict[str, Any]:
    """A table: its rows with means and intervals, the paper's orderings, and comparisons with its best row."""
    table, stories = measured.table, _stories(measured)
    orderings = judged(table, measured.look)
    against = comparisons(measured)
    tests = {
        "orderings": sum(o.difference is not None for o in orderings),
        "comparisons": sum(d.p is not None for *_, d in against),
    }
    why = not_made(table, work.amounts)
    return {
        "number": table.number,
        "title": table.title,
        "first": first_line(orderings, against, stories),
        "sentence": sentence(orderings, stories),
        "about": f"{POLICIES if table.compares_policies else ABLATION} {table.note}".strip(),
        "stories": stories,
        "videos": {arm.name: len(records) for arm, records in zip(measured.arms, measured.records, strict=True)},
        "ours": table.ours,
        "columns": [
            {"title": column, "measure": measure}
            for column, measure in zip(table.columns, table.measures, strict=True)
        ],
        "rows": [_row(work, measured, place, why) for place in range(len(measured.arms))],
        "not_measured": [
            row.name for row in table.rows if all(arm.row is not row for arm in measured.arms)
        ],
        "orderings": [_ordering(o) for o in orderings],
        "comparisons": [
            {"row": arm.name, "with": ours.name, "measure": measure} | entry_of(d)
            for arm, ours, measure, d in against
        ],
        "tests": tests,
        "smallest": _smallest(measured, tests),
    }  # fmt: skip


def comparisons(measured: Measured) -> list[tuple[Arm, Arm, str, Difference]]:
    """Each arm with the paper's best row, as is with as is, fine-tuned with fine-tuned; corrected over all of them."""
    pending = []
    for place, arm in enumerate(measured.arms):
        for other, ours in enumerate(measured.arms):
            if ours.row.name != measured.table.ours or ours.tuned != arm.tuned or ours is arm:
                continue
            for measure in dict.fromkeys([*measured.table.measures, *COMPARED]):
                pair = measured.values(place, measure), measured.values(other, measure)
                pending.append((arm, ours, measure, compared(*pair)))
    made = corrected([d for *_, d in pending])
    return [(*rest, d) for (*rest, _), d in zip(pending, made, strict=True)]


def first_line(
    orderings: Sequence[Ordering], against: Sequence[tuple[Arm, Arm, str, Difference]], stories: int
) -> str:
    """Whether the rows can be told apart."""
    differences = [o.difference for o in orderings if o.difference] + [d for *_, d in against]
    told, made = sum(d.told for d in differences), sum(d.p is not None for d in differences)
    if not told:
        return (
            f"The rows cannot be told apart: of {made} differences none is beyond chance after correction "
            f"({stories} stories)."
        )
    return f"{told} of {made} differences between rows are beyond chance after correction ({stories} stories)."


def _stories(measured: Measured) -> int:
    """Stories that all arms have."""
    return len(set.intersection(*({story for story, _ in r} for r in measured.records)))


def _row(work: Work, measured: Measured, place: int, why: dict[str, str]) -> dict[str, Any]:
    arm = measured.arms[place]
    legs = [
        read_json_object(stretch.folder / FINISHED) | {"seed": seed}
        for seed in range(work.amounts.seeds)
        for stretch in work.tunes.stretches(arm, seed)
        if stretch.finished
    ]
    return {
        "name": arm.row.name,
        "variant": arm.variant,
        "familiar": arm.row.familiar or arm.tuned,
        "not_tuned": why.get(arm.row.name, ""),
        "overrides": list(arm.row.overrides),
        "training": legs,
        "published": dict(
            zip(
                measured.table.columns,
                measured.table.published.get(arm.row.name, ()),
                strict=False,
            )
        ),
        "measures": {
            measure: summary(measured.values(place, measure)) for measure in measured.shown
        },
    }


def _ordering(ordering: Ordering) -> dict[str, Any]:
    entry = {f.name: getattr(ordering, f.name) for f in dataclasses.fields(ordering)}
    difference = ordering.difference
    return entry | {"difference": None if difference is None else entry_of(difference)}


def _smallest(measured: Measured, tests: dict[str, int]) -> dict[str, float | None]:
    """The smallest difference of each compared measure that can be told, over rows beside the best."""
    places = range(len(measured.arms))
    ours = [i for i in places if measured.arms[i].row.name == measured.table.ours]
    result = {}
    for measure in dict.fromkeys([*measured.table.measures, *COMPARED]):
        values = [measured.values(place, measure) for place in places]
        pairs = [
            (values[i], values[o])
            for o in ours
            for i in places
            if i != o and measured.arms[i].tuned == measured.arms[o].tuned
        ]
        family = "orderings" if measure in measured.table.measures else "comparisons"
        result[measure] = smallest(pairs, tests[family])
    return result
