"""Rows as they are measured: arms, each a configuration of generation over shared or fine-tuned weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from bvjax import policies
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.overrides import to_dict
from experiments.tables.rows import Row, Table

AS_IS, TUNED = "as is", "fine-tuned"


@dataclasses.dataclass(frozen=True)
class Amounts:
    """The amounts that are measured and trained, the same for all rows of a table."""

    stories: int = 16
    seeds: int = 2  # of videos of a story, and of fine-tunes: video k is made by fine-tune k
    chunks: int = 15
    steps: int = 0  # of the sampler; 0 = the model's
    updates: int = 300  # of a fine-tune; 0 = none are made
    train_stories: int = 100
    first_seed: int = 1000  # of the held-out stories

    def __post_init__(self):
        """Raises `UserError` for numbers out of bounds."""
        least = dict(stories=1, seeds=1, chunks=2, steps=0, updates=0, train_stories=1)
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UserError(f"`{name}` is {getattr(self, name)}; it must be {low} or more")

    @property
    def clip_chunks(self) -> int:
        """Chunks of the clips of stage 1."""
        return max(1, self.chunks // 3)


QUICK = Amounts(stories=4, seeds=1, chunks=6, steps=10, updates=8, train_stories=2)


@dataclasses.dataclass(frozen=True)
class Arm:
    """A row as it is, or fine-tuned."""

    row: Row
    tuned: bool
    model: ModelConfig

    @property
    def variant(self) -> str:
        return TUNED if self.tuned else AS_IS

    @property
    def name(self) -> str:
        return f"{self.row.name} ({self.variant})"


def configured(base: ModelConfig, row: Row, amounts: Amounts) -> ModelConfig:
    """The model of a row; raises `UserError` where its policy cannot make stories of so many chunks."""
    if amounts.steps:
        sampler = dataclasses.replace(base.sampler, steps=amounts.steps)
        base = dataclasses.replace(base, sampler=sampler)
    model = policies.configure(base, row.overrides)
    try:
        policies.check(model, amounts.chunks)
    except UserError as error:
        raise UserError(f"row {row.name}: {error}") from None
    return model


def arms_of(table: Table, base: ModelConfig, amounts: Amounts) -> list[Arm]:
    """The arms of a table, in the order of its rows: as is, where that says something, then fine-tuned."""
    arms = []
    for row in table.rows:
        model = configured(base, row, amounts)
        arms += [Arm(row, False, model)] * row.as_is
        arms += [Arm(row, True, model)] * bool(row.plan and amounts.updates)
    return arms


def not_made(table: Table, amounts: Amounts) -> dict[str, str]:
    """Why rows have no fine-tuned arm, by name."""
    without = "no fine-tunes were asked for"
    return {
        row.name: row.why_not or without
        for row in table.rows
        if not row.plan or not amounts.updates
    }


def key_of(*parts: Any) -> str:
    """A short name for what makes a result: the hash of its JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def cell_key(model: ModelConfig, hashes: Iterable[str]) -> str:
    """The key of an arm's results: its configuration, and the files of weights and judge."""
    return key_of(to_dict(model), sorted(hashes))
