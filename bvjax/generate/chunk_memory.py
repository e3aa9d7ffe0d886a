"""The memory of one chunk in plain numbers: which chunks it saw, how much of it was kept."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.types import ChunkReport


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """A past chunk that a chunk saw: its number (0: the first frame), why, and with which score."""

    chunk: int
    role: str  # anchor, semantic or recent
    score: float  # by which it was ranked: a cosine, or what `retrieval.kind` says


@dataclasses.dataclass(frozen=True)
class ChunkMemory:
    """The memory of one chunk; tuples over the layers of the DiT, shares from 0 to 1."""

    retrieved: tuple[Retrieved, ...]
    kept_ratio: tuple[float, ...]  # of the chunk's tokens that went into the bank
    clipped: tuple[bool, ...]  # whether more were wanted than a slot holds
    coverage: tuple[float, ...]  # importance of what was kept, of that of the whole chunk


def chunk_memory(report: ChunkReport, model: ModelConfig, grid: ChunkGrid) -> ChunkMemory:
    """Reads the report of a chunk of `grid`; waits for it."""
    report = jax.device_get(report)
    roles = ["anchor"] * model.memory.anchor + ["semantic"] * model.retrieval.num_retrieved
    roles += ["recent"] * model.retrieval.num_recent
    return ChunkMemory(
        retrieved=tuple(
            Retrieved(
                int(grid.number_of(int(report.chunk_id[e]))), roles[e], float(report.score[e])
            )
            for e in np.flatnonzero(report.valid)
        ),
        kept_ratio=tuple((report.kept / grid.tokens_per_chunk).tolist()),
        clipped=tuple((report.requested > report.kept).tolist()),
        coverage=tuple(report.coverage.tolist()),
    )
