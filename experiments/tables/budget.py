"""The work still to do, in CPU minutes: from what the same folder has measured, else from stored figures."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

from bvjax.errors import UserError
from bvjax.files import read_json_object
from bvjax.lvbench.table import aligned
from experiments.tables.rows import Table
from experiments.tables.run import Cell, Work
from experiments.tables.settings import Arm
from experiments.tables.statistics import in_deviations, least_stories
from experiments.tables.training import FINISHED, Stretch

# Seconds of one core, of the model that ships: a chunk and step of the sampler by policy, and measuring a chunk. From
# the runs of docs/tables.md; moc, full, lct, rolling_forcing and framepack_f1, and updates, are estimates.
CHUNK_STEP = {
    "magi": 0.053,
    "pa_vdm": 0.042,
    "framepack": 0.035,
    "skyreels": 0.03,
    "moc": 0.06,
    "full": 0.06,
    "lct": 0.06,
    "rolling_forcing": 0.042,
    "framepack_f1": 0.035,
}
USUAL_CHUNK_STEP = 0.025
MEASURING = 1.0
COMPILING = 20.0  # seconds, of each configuration, once
UPDATE = {"dit": 6.0, "consistency": 8.0, "self_forcing": 60.0}  # seconds of an update, 15 chunks
MOST_MINUTES = 30.0  # of a fine-tune


@dataclasses.dataclass(frozen=True)
class Line:
    """Work of one kind: so many pieces, in so many minutes."""

    what: str
    count: int
    minutes: float


def lines(work: Work, tables: Sequence[Table]) -> list[Line]:
    """The fine-tunes and the videos that are missing, row by row."""
    by_arm: dict[str, list[Cell]] = {}
    for cell in work.missing(tables):
        by_arm.setdefault(cell.arm.name, []).append(cell)
    found = _tuning(work, tables)
    for name, cells in by_arm.items():
        arm = cells[0].arm
        seconds = len(cells) * work.amounts.chunks * (chunk_seconds(work, arm) + MEASURING)
        found.append(Line(f"videos of {name}", len(cells), (seconds + COMPILING) / 60))
    return found


def _tuning(work: Work, tables: Sequence[Table]) -> list[Line]:
    """The legs that are not finished, by the row that needs them first."""
    pending = {stretch.folder for stretch in work.untrained(tables)}
    found: list[Line] = []
    for arm in (arm for table in tables for arm in work.arms(table)):
        legs = [s for seed in range(work.amounts.seeds) for s in work.tunes.stretches(arm, seed)]
        own = {s.folder: s for s in legs if s.folder in pending}
        pending -= own.keys()
        if own:
            minutes = sum(tuning_minutes(work, stretch) for stretch in own.values())
            found.append(Line(f"legs of fine-tunes of {arm.row.name}", len(own), minutes))
    return found


def chunk_seconds(work: Work, arm: Arm) -> float:
    """Seconds of a chunk of an arm: the median of its videos that are there, else by `CHUNK_STEP`."""
    known = [r["seconds"] for r in work.records(arm).values() if r["warm"]]
    if known:
        return statistics.median(known)
    step = CHUNK_STEP.get(arm.model.policy.name, USUAL_CHUNK_STEP)
    return step * arm.model.sampler.steps


def tuning_minutes(work: Work, stretch: Stretch) -> float:
    """Minutes of a leg: by the legs of its task that this folder has finished, else by `UPDATE`."""
    return stretch.updates * update_seconds(work, stretch.experiment.task) / 60


def update_seconds(work: Work, task: str) -> float:
    """Seconds of an update of a task, of all chunks of a story."""
    known = [_pace(path, task) for path in (work.out / "training").glob(f"*/{FINISHED}")]
    paces = [pace for pace in known if pace is not None]
    return statistics.median(paces) if paces else UPDATE[task] * work.amounts.chunks / 15


def _pace(path: Path, task: str) -> float | None:
    content = read_json_object(path)
    return content["seconds"] / content["updates"] if content.get("task") == task else None


def check(work: Work, tables: Sequence[Table], most: float = MOST_MINUTES) -> None:
    """Raises `UserError` where a leg would take more than `most` minutes, with the updates that fit."""
    for stretch in work.untrained(tables):
        minutes = tuning_minutes(work, stretch)
        if minutes > most:
            fit = max(1, int(most * 60 / update_seconds(work, stretch.experiment.task)))
            raise UserError(
                f"{stretch.updates} updates of task {stretch.experiment.task} take about {minutes:.0f} minutes, and a "
                f"fine-tune has {most:g}: give {fit} `updates` or fewer, or more `tuning_minutes`"
            )


def text(work: Work, tables: Sequence[Table]) -> list[str]:
    """The budget for a terminal."""
    todo = lines(work, tables)
    rows = [["to do", "", "CPU minutes"]]
    rows += [[line.what, str(line.count), f"{line.minutes:.1f}"] for line in todo]
    rows.append(["all", "", f"{sum(line.minutes for line in todo):.0f}"])
    return [*aligned(rows), power(work.amounts.stories)]


def power(stories: int, tests: int = 50) -> str:
    """The smallest difference that so many stories can tell."""
    deviations = in_deviations(stories, tests)
    if deviations is None:
        return (
            f"With {stories} stories no difference can be told after correction for {tests} tests, which takes "
            f"{least_stories(tests)} or more."
        )
    return (
        f"With {stories} stories the smallest difference that can be told (4 times of 5, after correction for {tests} "
        f"tests) is {deviations:.1f} standard deviations of the difference between two rows."
    )
