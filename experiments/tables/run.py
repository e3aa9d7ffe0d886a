"""The videos of tables: what is there, what is missing, and making it. Each result is a file, so that work goes on.

Folders are named by the whole configuration and the hashes of weights and judge: a version of bvjax whose configuration
has other fields makes everything anew, and nothing that another one made is taken for its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bvjax.errors import UserError
from bvjax.files import read_json_object, sha256_of, write_json
from bvjax.overrides import to_dict
from experiments.evaluation.judge import Judge, load_judge
from experiments.evaluation.under_test import UnderTest
from experiments.tables.generating import Generator
from experiments.tables.measures import SCORES, Record
from experiments.tables.measuring import record_of
from experiments.tables.rows import Table
from experiments.tables.settings import Amounts, Arm, arms_of, cell_key
from experiments.tables.stories import HeldoutStory, chosen, truth_file
from experiments.tables.training import FineTunes, Stretch

KEYS = ("scores", "sharpness", "seam", "sightings", "seconds", "warm", "memory_bytes")
SEEDS_APART = 10**6  # more than there are stories: no two videos have one seed
Progress = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One video: of an arm, a story and a seed."""

    arm: Arm
    held: HeldoutStory
    seed: int


@dataclasses.dataclass(frozen=True)
class Work:
    """Everything that the tables of a folder share."""

    tested: UnderTest
    judge_file: Path
    out: Path
    amounts: Amounts
    tunes: FineTunes

    @functools.cached_property
    def judge(self) -> Judge:
        return load_judge(self.judge_file)

    @functools.cached_property
    def stories(self) -> list[HeldoutStory]:
        amounts = self.amounts
        return chosen(amounts.first_seed, amounts.stories, amounts.chunks, self.tested.model)

    @functools.cached_property
    def _hashes(self) -> list[str]:
        """Hashes of all files but the DiT that results depend on."""
        others = [h for name, h in self.tested.sha256.items() if not name.startswith("dit")]
        return [*others, sha256_of(self.judge_file)]

    def arms(self, table: Table) -> list[Arm]:
        return arms_of(table, self.tested.model, self.amounts)

    # ---- what is there -------------------------------------------------------------------------
    def folder(self, arm: Arm, seed: int) -> Path | None:
        """Where the videos of an arm are; None while its fine-tune is not finished."""
        if not all(stretch.finished for stretch in self.tunes.stretches(arm, seed)):
            return None
        hashes = [*self._hashes, self.tunes.sha256(self.tunes.dit_of(arm, seed))]
        return self.out / "cells" / cell_key(arm.model, hashes)

    def file(self, cell: Cell, folder: Path) -> Path:
        return folder / f"{cell.held.name}-{cell.seed}.json"

    def records(self, arm: Arm) -> dict[tuple[int, int], Record]:
        """The results of an arm that are there, by story and seed."""
        found = {}
        for seed in range(self.amounts.seeds):
            folder = self.folder(arm, seed)
            for held in self.stories if folder is not None else ():
                path = self.file(Cell(arm, held, seed), folder)
                if path.is_file():
                    found[held.story.seed, seed] = read_record(path)
        return found

    def missing(self, tables: Sequence[Table]) -> list[Cell]:
        """The videos that are not there, story by story, each once; those of fine-tunes to come too."""
        folders: dict[tuple[str, int], tuple[Arm, Path | None]] = {}
        for table in tables:
            for arm in self.arms(table):
                for seed in range(self.amounts.seeds):
                    legs = self.tunes.stretches(arm, seed)
                    where = self.folder(arm, seed)
                    # Of what is not trained yet, the run that will make it stands for its weights.
                    mark = str(where) if where else f"{legs[-1].folder} {cell_key(arm.model, ())}"
                    folders[mark, seed] = arm, where
        return [
            cell
            for held in self.stories
            for (_, seed), (arm, where) in folders.items()
            for cell in [Cell(arm, held, seed)]
            if where is None or not self.file(cell, where).is_file()
        ]

    def untrained(self, tables: Sequence[Table]) -> list[Stretch]:
        """The legs of fine-tunes that are not finished, each once, in an order in which they can be made."""
        found: dict[Path, Stretch] = {}
        for table in tables:
            for arm in self.arms(table):
                for seed in range(self.amounts.seeds):
                    for stretch in self.tunes.stretches(arm, seed):
                        if not stretch.finished:
                            found.setdefault(stretch.folder, stretch)
        return list(found.values())

    # ---- making --------------------------------------------------------------------------------
    def run(self, tables: Sequence[Table], progress: Progress) -> None:
        """Fine-tunes, then makes and measures, what is missing."""
        for stretch in progress(self.untrained(tables), "fine-tunes"):
            self.tunes.train(stretch)
        generator, params = Generator(self.tested), {}
        for cell in progress(self.missing(tables), "videos"):
            folder = self.folder(cell.arm, cell.seed)
            dit = self.tunes.dit_of(cell.arm, cell.seed)
            if dit not in params:
                params[dit] = self.tunes.params_of(cell.arm, cell.seed)
            self._make(cell, folder, generator, params[dit])

    def _make(self, cell: Cell, folder: Path, generator: Generator, params: Any) -> None:
        model, fps = cell.arm.model, self.tested.model.chunk.fps
        truth = truth_file(self.out / "stories", cell.held, self.tested.model)
        made = generator.make(
            params, model, cell.held, cell.held.story.seed + SEEDS_APART * cell.seed
        )
        record = record_of(made, cell.held, truth, self.judge, fps)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "setting.json").exists():
            write_json(folder / "setting.json", {"row": cell.arm.name, "model": to_dict(model)})
        write_json(self.file(cell, folder), record)


def read_record(path: Path) -> Record:
    """A stored result; raises `UserError` for what no run has written."""
    record = read_json_object(path)
    whole = all(key in record for key in KEYS) and isinstance(record["scores"], dict)
    if not whole or any(name not in record["scores"] for name in SCORES):
        raise UserError(f"{path} is damaged; delete it to make it again")
    return record


def quietly(items: Sequence[Any], what: str) -> Iterator[Any]:
    """A `Progress` that says nothing."""
    return iter(items)
