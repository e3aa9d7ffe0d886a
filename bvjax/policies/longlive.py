"""LongLive (arXiv 2509.22622): a rolling cache with a sink, encoded anew where the caption changes.

Before a chunk whose caption is another than that of the chunk before, the entries of the window are encoded again
under the new caption, from the oldest on (KV recache).  The sink stays as it is (its `global_sink`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.policies import rolling
from bvjax.policies.schedule import Commit, Round, chunk_alone


def configure(model: ModelConfig) -> ModelConfig:
    """`rolling` with the sink."""
    policy = dataclasses.replace(model.policy, sink=True)
    return rolling.configure(dataclasses.replace(model, policy=policy))


def rounds(model: ModelConfig, grid: ChunkGrid, captions: Sequence[int]) -> Iterator[Round]:
    """A round a chunk, with the window encoded again where `captions` change."""
    sink = int(model.memory.anchor)
    for chunk in grid.chunk_ids:
        row = grid.row_of(chunk)
        refresh: tuple[Commit, ...] = ()
        if row > 0 and captions[row] != captions[row - 1]:
            first = max(grid.first_id, sink, chunk - model.retrieval.num_recent)
            refresh = tuple(Commit(old, row) for old in range(first, chunk))
        yield chunk_alone(chunk, row, model.sampler.steps, refresh=refresh)


def check(model: ModelConfig, num_chunks: int) -> None:
    """Raises `UserError` for a bank on the host, which writes each entry once."""
    if model.memory.offload == "host":
        raise UserError(
            "policy longlive encodes entries again, and memory.offload='host' writes each once; use "
            "memory.offload='none'"
        )
