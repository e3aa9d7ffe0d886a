"""BlockVid (paper, Algorithm 1): chunk by chunk, each seeing the recent chunks and those that retrieval brings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.policies.schedule import Round, chunk_alone


def configure(model: ModelConfig) -> ModelConfig:
    """The model as it is: `memory`, `build` and `retrieval` say all."""
    return model


def rounds(model: ModelConfig, grid: ChunkGrid, captions: Sequence[int]) -> Iterator[Round]:
    """A round a chunk."""
    for chunk in grid.chunk_ids:
        yield chunk_alone(chunk, grid.row_of(chunk), model.sampler.steps)
