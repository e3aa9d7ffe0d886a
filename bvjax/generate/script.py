"""A story in the form in which `stream` makes it: its rounds, and the inputs of each piece."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Array, Float, Key

from bvjax import policies
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.types import ChunkInput
from bvjax.generate import steps
from bvjax.generate.conditions import Conditions, alike
from bvjax.generate.prompt_change import shots_by_id, told


@dataclasses.dataclass(frozen=True)
class Telling:
    """Everything about a story that may change while its video is made, for chunks that are not begun."""

    conditions: Conditions
    # (chunk id, seed): the chunks from that id on have this seed; ids rise.
    rerolls: Sequence[tuple[int, Key[Array, ""]]] = ()
    cuts: Collection[int] = ()  # ids of chunks that begin a shot


@dataclasses.dataclass(frozen=True)
class Script:
    """The rounds of a story, and by id what its pieces are given."""

    turns: list[policies.Round]
    conditions: Conditions  # with the text states that chunks are given
    grid: ChunkGrid
    keys: dict[int, Key[Array, ""]]
    shots: dict[int, int]  # the id of the first chunk of a chunk's shot
    chunks: dict[
        int, tuple[ChunkInput, ...]
    ]  # of all entries that a piece brings, its own the last


def write_script(
    model: ModelConfig,
    telling: Telling,
    key: Key[Array, ""],
    oracle: Float[np.ndarray, "n ids"] | None = None,
) -> Script:
    """Returns the script of a story; `key` is the seed of pieces that no reroll gives another.

    Raises `UserError` for cuts that the policy cannot make.
    """
    policies.check_cuts(model, telling.cuts)
    count = telling.conditions.num_chunks
    turns = list(policies.rounds(model, count, alike(telling.conditions), telling.cuts))
    conditions = told(telling.conditions, model, telling.cuts)
    model = policies.without(model)
    grid = ChunkGrid.of(model, count)
    keys = dict.fromkeys(grid.piece_ids, key)
    for start, new_key in telling.rerolls:
        keys |= {i: new_key for i in keys if i >= start}
    shots = shots_by_id(model, count, telling.cuts)
    chunks = {
        i: steps.entry_inputs(model, conditions, keys[i], oracle, i, shots.get(i, 0)) for i in keys
    }
    return Script(turns, conditions, grid, keys, shots, chunks)


def is_revisable(model: ModelConfig) -> bool:
    """Returns whether chunks to come may be told something else while a video is made.

    Not where several chunks are made at once, or where what is kept for later rounds, or sent ahead of them, was
    decided when the video began.
    """
    return (
        policies.policy_of(model.policy.name).scans
        and model.memory.offload == "none"
        and model.prompt.change != "recache"
    )
