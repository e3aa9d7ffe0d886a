"""The paper's tables as data: rows, how each is made, and which of our measures stands beside each column."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bvjax.errors import UserError
from bvjax.memory.rules import RULES
from experiments.tables import published

Changes = Mapping[str, Any]
# What stands beside the paper's columns. The camera of storyworld moves, so the background is compensated for it; the
# paper's VDE Motion is drift in motion smoothness.
DRIFT = (
    "vde/subject",
    "vde/background_compensated",
    "vde/motion_smoothness",
    "vde/aesthetic",
    "vde/clarity",
)
QUALITY = (
    "level/subject",
    "level/background_compensated",
    "level/motion_smoothness",
    "level/aesthetic",
    "level/clarity",
)
VBENCH = (*QUALITY[:3], "level/motion", *QUALITY[3:])


@dataclasses.dataclass(frozen=True)
class Leg:
    """A part of a fine-tune.

    task: dit (Block Forcing), consistency or self_forcing. data: minutes, or clips of a third as many chunks, three
    times as many of them. share: of the updates. changes: keys of the experiment.
    """

    task: str = "dit"
    data: str = "minutes"
    share: float = 1.0
    changes: Changes = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row: what generation is set to (`overrides`), and its fine-tune.

    as_is: whether the shared weights make it without a fine-tune. familiar: whether their own training showed them
    what the row shows. why_not: why there is no fine-tune.
    """

    name: str
    overrides: tuple[str, ...] = ()
    plan: tuple[Leg, ...] = ()
    as_is: bool = True
    familiar: bool = False
    why_not: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the paper. The paper's claim is for the row `ours`; `measures` stand beside `columns`."""

    number: int
    title: str
    rows: tuple[Row, ...]
    ours: str
    columns: tuple[str, ...]
    measures: tuple[str, ...]
    published: published.Numbers
    note: str = ""

    @property
    def compares_policies(self) -> bool:
        """Whether rows are rules of inference over shared weights."""
        return any(row.as_is for row in self.rows)


def _shown(rolling: float = 0.0, anchor_drop: float = 0.15, **other: float) -> Changes:
    """Histories of these rules alone, and a tenth without any."""
    chances = dict.fromkeys(RULES, 0.0) | {"none": 0.1, "rolling": rolling} | other
    return {f"history.{rule}": chance for rule, chance in chances.items()} | {
        "history.anchor_drop": anchor_drop
    }


_WINDOWS = "training has no windows of several chunks at levels of their own"
_PLAN = (Leg(),)
_ROLLING = (Leg(changes=_shown(rolling=0.9, anchor_drop=1.0)),)
_ANCHORED = (Leg(changes=_shown(rolling=0.9)),)
_BLOCKVID = Row("BlockVid", ("policy.name=blockvid",), _PLAN, familiar=True)
_SPARSE = Row("Dynamic sparse KV", ("policy.name=sparse",), _ROLLING, familiar=True)
_SYSTEMS = (
    Row("MAGI-1", ("policy.name=magi",), why_not=_WINDOWS),
    Row("Self Forcing", ("policy.name=rolling",), _ROLLING),
    Row("PAVDM", ("policy.name=pa_vdm",), why_not=_WINDOWS),
    Row("FramePack", ("policy.name=framepack",), why_not="training has no packed frames"),
    Row(
        "SkyReels-V2-DF",
        ("policy.name=skyreels",),
        why_not="training cuts chunks apart and has no overlapping windows",
    ),
)
_OF_OTHERS = (
    Row("LongLive", ("policy.name=longlive",), _ANCHORED),
    _SPARSE,
    Row("Full history", ("policy.name=full",), _ANCHORED),
    Row(
        "Reward Forcing",
        ("policy.name=reward_forcing",),
        why_not="training has no sink that takes in what leaves the window",
    ),
    Row(
        "CausVid",
        ("policy.name=causvid",),
        why_not="training has no segments that begin with the end of the last",
    ),
    Row("Rolling Forcing", ("policy.name=rolling_forcing",), why_not=_WINDOWS),
    Row("FramePack-F1", ("policy.name=framepack_f1",), why_not="training has no packed frames"),
)
_LCT = Row("LCT", ("policy.name=lct",), why_not=_WINDOWS)
_MOC = Row("MoC", ("policy.name=moc",), why_not="training does not route queries")


def _schedule(name: str) -> tuple[Leg, ...]:
    return (Leg(changes={"levels.schedule": name}),)


def _memory(name: str, policy: str, tau: float, plan: tuple[Leg, ...]) -> Row:
    words = (f"policy.name={policy}", f"memory.tau={tau}")
    return Row(f"{name}, tau {tau}", words, plan, familiar=True)


_SCHEDULES = tuple(
    Row(name, ("noise.base=shared", "noise.shuffle=4"), _schedule(name.lower()), as_is=False)
    for name in ("Naive", "Linear", "Cosine", "Sigmoid")
)
_SHUFFLES = tuple(
    Row(name, ("noise.base=shared", f"noise.shuffle={s}"), _schedule("cosine"), as_is=False)
    for name, s in (("No shuffle", 0), ("s=2", 2), ("s=4", 4))
)
_FEW_STEPS = ("sampler.kind=few_step", "sampler.steps=4", "guidance.scale=1", "guidance.memory=0")


def _forcing(name: str, objective: str, target: str) -> Row:
    """A row of Table 6: after a few-step start, which all share."""
    changes = {"self_forcing.objective": objective, "block.target": target}
    plan = (Leg("consistency"), Leg("self_forcing", changes=changes))
    return Row(name, _FEW_STEPS, plan, as_is=False)


_DATA = {
    "Stage 1 only": (Leg(data="clips"),),
    "Stage 2 only": (Leg(),),
    "Stage 1 + 2": (Leg(data="clips", share=0.5), Leg(share=0.5)),
}

TABLES = {
    table.number: table
    for table in (
        Table(
            2,
            "Systems, on LV-Bench's measures",
            (*_SYSTEMS, _BLOCKVID, *_OF_OTHERS),
            "BlockVid",
            (*published.DRIFT, *published.QUALITY),
            (*DRIFT, *QUALITY),
            published.TABLE_2,
        ),
        Table(
            3,
            "Systems, on VBench's measures",
            (*_SYSTEMS, _LCT, _MOC, _BLOCKVID),
            "BlockVid",
            published.VBENCH,
            VBENCH,
            published.TABLE_3,
        ),
        Table(
            4,
            "Noise: schedules in training, shuffles in generation",
            (*_SCHEDULES, *_SHUFFLES),
            "Cosine",
            published.DRIFT,
            DRIFT,
            published.TABLE_4,
            "Shuffles are made with the weights of the row Cosine.",
        ),
        Table(
            5,
            "Memory",
            (
                Row("Rolling KV", ("policy.name=rolling",), _ROLLING),
                _memory("Dynamic sparse KV", "sparse", 0.97, _ROLLING),
                _memory("Dynamic sparse KV", "sparse", 0.98, _ROLLING),
                _memory("Semantic sparse KV", "blockvid", 0.97, _PLAN),
                _memory("Semantic sparse KV", "blockvid", 0.98, _PLAN),
            ),
            "Semantic sparse KV, tau 0.98",
            published.DRIFT,
            DRIFT,
            published.TABLE_5,
        ),
        Table(
            6,
            "Losses",
            (
                _forcing("Naive", "none", "fm"),
                _forcing("Self Forcing", "gan", "fm"),
                _forcing("Velocity Forcing", "none", "blend"),
                _forcing("Both", "gan", "blend"),
            ),
            "Both",
            published.DRIFT,
            DRIFT,
            published.TABLE_6,
            "All rows begin with the same few-step weights; updates are equal, what an update costs is not.",
        ),
        Table(
            7,
            "Data of post-training",
            tuple(Row(name, (), plan, as_is=False) for name, plan in _DATA.items()),
            "Stage 1 + 2",
            published.DRIFT,
            DRIFT,
            published.TABLE_7,
            "Loss and compute are the same in all rows: as many updates, of as many chunks.",
        ),
    )
}


def table_of(number: int, names: tuple[str, ...] = (), quick: bool = False) -> Table:
    """A table: with rows of these names, or all of them, or, where `quick`, those that the paper has.

    Raises `UserError` for a table that is none, naming those that are.
    """
    if number not in TABLES:
        legal = ", ".join(map(str, TABLES))
        raise UserError(f"`table` is {number}; it can be {legal}")
    table = TABLES[number]
    wanted = names or (tuple(table.published) if quick else [row.name for row in table.rows])
    return dataclasses.replace(table, rows=tuple(r for r in table.rows if r.name in wanted))


def check_names(numbers: tuple[int, ...], names: tuple[str, ...]) -> None:
    """Raises `UserError` for a row that none of the tables has."""
    legal = list(dict.fromkeys(row.name for n in numbers for row in table_of(n).rows))
    for name in names:
        if name not in legal:
            raise UserError(f"`rows` has {name!r}; the rows are {'; '.join(legal)}")
