"""The text states of chunks while the caption changes: between the old caption's and the new one's."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.generate.conditions import Conditions, alike
from bvjax.policies.recache import shots_of


def told(conditions: Conditions, model: ModelConfig, cuts: Collection[int] = ()) -> Conditions:
    """The conditions with the text states that chunks are given; the embeddings that retrieval compares stay.

    With prompt.change="interpolate", from a chunk on whose caption is another than the one before, the i-th of n =
    `prompt.chunks` chunks is told e + i / (n + 1) (c - e), and the others c: c are the states of its own caption and e
    what the last chunk before the change was told. Where the caption changes again on the way, e is what was told by
    then. A caption's rows beyond its length are zeros, so that rows that only one of both has fade in or out.

    Args:
        cuts: ids of chunks that begin a shot: there the caption changes at once.
    """
    prompt, grid = model.prompt, ChunkGrid.of(model)
    if prompt.change != "interpolate":
        return conditions
    text, kinds = np.array(conditions.text, np.float32), alike(conditions)
    starts = {grid.row_of(chunk_id) for chunk_id in cuts}
    before, step = None, 0  # states that were told before the change; 0: no change under way
    for row in range(1, len(text)):
        own = np.asarray(conditions.text[row], np.float32)
        if row in starts:
            before = None
        elif kinds[row] != kinds[row - 1]:
            before, step = text[row - 1].copy(), 0
        if before is None:
            continue
        step += 1
        if step > prompt.chunks:
            before = None
            continue
        text[row] = before + np.float32(step / (prompt.chunks + 1)) * (own - before)
    return dataclasses.replace(conditions, text=text)


def shots_by_id(model: ModelConfig, num_chunks: int, cuts: Collection[int]) -> dict[int, int]:
    """The id of the first chunk of its shot by the id of each chunk; 0 for the first shot and the anchor."""
    grid = ChunkGrid.of(model, num_chunks)
    return dict(zip(grid.chunk_ids, shots_of(grid, cuts), strict=True))
