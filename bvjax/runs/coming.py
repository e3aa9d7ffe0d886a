"""A run whose chunks to come change while it is made: what it goes on with, and when it has to begin from its folder."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from bvjax.chunking import ChunkGrid
from bvjax.generate.conditions import Conditions
from bvjax.generate.script import Telling, is_revisable
from bvjax.loading.bundle import Bundle
from bvjax.runs.captions import run_conditions
from bvjax.runs.run_dir import RunDir
from bvjax.runs.run_settings import Settings


class Coming:
    """Compares an open run with what its video is being made of."""

    def __init__(self, run: RunDir, bundle: Bundle):
        self._run, self._bundle = run, bundle
        self._used = (run.captions, run.settings)

    @property
    def is_changed(self) -> bool:
        """Whether captions or settings are others than those that are used."""
        return self._used != (self._run.captions, self._run.settings)

    def fits(self, begun: int) -> bool:
        """Whether the chunks up to number `begun`, which are made or in the making, are still those of the run."""
        if not self.is_changed:
            return True
        if begun > len(self._run.captions) or not is_revisable(self._run.settings.model):
            return False
        now = (self._run.captions, self._run.settings)
        return _made_of(*self._used, begun) == _made_of(*now, begun)

    def take(self) -> Telling | None:
        """Goes on with what the run says now: what `stream` is told of it; None where that is what is used.

        Raises `UserError` for a caption that is too long, `WorkError` for text states that are not finite.
        """
        if not self.is_changed:
            return None
        run = self._run
        conditions, new = run_conditions(run, self._bundle, run.captions)
        if new:
            run.save_conditions(conditions)
        self._used = (run.captions, run.settings)
        return telling(run, conditions)


def telling(run: RunDir, conditions: Conditions) -> Telling:
    """The story of a run as `stream` is told it."""
    settings = run.settings
    return Telling(
        conditions,
        [(first, jax.random.key(seed)) for first, seed in settings.rerolls],
        [run.grid.id_of(number) for number in settings.cuts],
    )


def _made_of(captions: tuple[str, ...], settings: Settings, begun: int) -> Any:
    """All that decides the chunks up to number `begun`."""
    grid = ChunkGrid.of(settings.model, len(captions))
    ids = [i for i in grid.piece_ids if grid.number_of(i) <= begun]
    return (
        captions[:begun],
        [(settings.seed_of(i), settings.strengths_of(i)) for i in ids],
        [number for number in settings.cuts if number <= begun],
        dataclasses.replace(settings, rerolls=(), lora_strengths=(), cuts=()),
    )
