"""Recent entries encoded again under a new caption (prompt.change="recache"), before a chunk is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.policies.schedule import Commit, Round


def recached(
    turns: Iterable[Round],
    model: ModelConfig,
    grid: ChunkGrid,
    captions: Sequence[int],
    shots: Sequence[int],
) -> Iterator[Round]:
    """The rounds, with the recent entries of its shot encoded again before a chunk whose caption is another.

    Oldest first, as LongLive does it.  The anchor stays as it is.

    Args:
        captions: of each chunk a number that is the same where captions are.
        shots: of each chunk the id of the first chunk of its shot.
    """
    anchor = int(model.memory.anchor)
    for turn in turns:
        (chunk,) = turn.emits
        row = grid.row_of(chunk)
        if row > 0 and captions[row] != captions[row - 1]:
            span, end = model.retrieval.span, chunk - model.retrieval.offset
            first = max(grid.first_id, anchor, chunk - span, shots[row])
            refresh = tuple(
                Commit(old, row, found_by=grid.row_of(old)) for old in range(first, end)
            )
            turn = dataclasses.replace(turn, refresh=refresh)
        yield turn


def shots_of(grid: ChunkGrid, cuts: Iterable[int]) -> tuple[int, ...]:
    """Of each chunk the id of the first chunk of its shot; `cuts` are the ids of chunks that begin one."""
    starts, shots, first = set(cuts), [], 0
    for chunk in grid.chunk_ids:
        first = chunk if chunk in starts else first
        shots.append(first)
    return tuple(shots)
