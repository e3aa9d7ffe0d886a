"""The paper's orderings of rows, and which of them hold here.

An ordering is a pair of rows and a column by which the paper has one before the other. It is judged from fine-tuned
rows where both are; from rows as they are only where training showed the model what both do.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from experiments.tables.rows import Row, Table
from experiments.tables.statistics import Difference, Values, compared, corrected

HOLDS, REVERSED, OPEN, NOT_JUDGED = "holds", "reversed", "cannot be told", "not judged"
NAMED = 6  # orderings that a sentence names

# The values of a row by a measure, fine-tuned or as is; None where there are none.
Look = Callable[[Row, bool, str], Values | None]


@dataclasses.dataclass(frozen=True)
class Ordering:
    """`first` is before `second` by a column of the paper; `difference` is first - second by ours."""

    first: str
    second: str
    column: str
    measure: str
    verdict: str = NOT_JUDGED
    tuned: bool = False
    difference: Difference | None = None

    def __str__(self) -> str:
        return f"{self.first} before {self.second} by {self.column}"


def falls(column: str) -> bool:
    """Whether less is better in a column of the paper."""
    return column.startswith("VDE")


def published_orderings(table: Table) -> list[Ordering]:
    """All pairs of rows of the table that the paper tells apart, column by column."""
    names = [row.name for row in table.rows if row.name in table.published]
    found = []
    for place, column in enumerate(table.columns):
        for a, b in itertools.combinations(names, 2):
            x, y = table.published[a][place], table.published[b][place]
            if x != y:
                first, second = (a, b) if (x < y) == falls(column) else (b, a)
                found.append(Ordering(first, second, column, table.measures[place]))
    return found


def judged(table: Table, look: Look) -> list[Ordering]:
    """The paper's orderings with verdicts, after Holm's correction over all that can be judged."""
    rows = {row.name: row for row in table.rows}
    pending: list[tuple[Ordering, Difference | None]] = []
    for ordering in published_orderings(table):
        a, b = rows[ordering.first], rows[ordering.second]
        for tuned in (True, False):
            pair = look(a, tuned, ordering.measure), look(b, tuned, ordering.measure)
            if None not in pair and (tuned or (a.familiar and b.familiar)):
                ordering = dataclasses.replace(ordering, tuned=tuned)
                pending.append((ordering, compared(*pair)))
                break
        else:
            pending.append((ordering, None))
    made = corrected([d for _, d in pending if d is not None])
    each = iter(made)
    return [o if d is None else _with_verdict(o, next(each)) for o, d in pending]


def _with_verdict(ordering: Ordering, difference: Difference) -> Ordering:
    verdict = OPEN
    if difference.told:
        less = difference.mean < 0
        verdict = HOLDS if less == falls(ordering.column) else REVERSED
    return dataclasses.replace(ordering, verdict=verdict, difference=difference)


def sentence(orderings: Sequence[Ordering], stories: int) -> str:
    """Which of the paper's orderings hold here, which do not, which cannot be told, in one sentence."""
    if not orderings:
        return "The paper orders none of these rows."
    groups = {v: [o for o in orderings if o.verdict == v] for v in (HOLDS, REVERSED, OPEN)}
    unjudged = sum(o.verdict == NOT_JUDGED for o in orderings)
    parts = [
        f"{_count(groups[HOLDS], 'holds', 'hold')} here{_names(groups[HOLDS])}",
        f"{_count(groups[REVERSED], 'is', 'are')} the other way round{_names(groups[REVERSED])}",
        f"{len(groups[OPEN]) or 'none'} cannot be told with {stories} stor{'y' if stories == 1 else 'ies'}",
    ]
    text = f"Of the paper's {len(orderings)} orderings of two rows by a column, {'; '.join(parts)}"
    if unjudged:
        text += (
            f"; {unjudged} {'is' if unjudged == 1 else 'are'} not judged, since a row shows the model what its training "
            "never did and is not fine-tuned, or was not measured"
        )
    return text + "."


def _count(group: Sequence[Ordering], one: str, many: str) -> str:
    return f"{len(group) or 'none'} {one if len(group) == 1 else many}"


def _names(group: Sequence[Ordering]) -> str:
    if not group:
        return ""
    left = len(group) - NAMED
    more = f", and {left} more" if left > 0 else ""
    return f" ({'; '.join(map(str, group[:NAMED]))}{more})"
