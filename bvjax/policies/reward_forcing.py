"""Reward Forcing (arXiv 2512.04678): a rolling cache whose sink takes in what leaves the window.

When a chunk leaves the last `policy.window` chunks (1: attention reaches 9 latents, 3 of the sink and 3 its own), the keys
and values of the sink become decay times themselves plus 1 - decay times those of the chunk (EMA sink, 0.999).  With
chunk.first="joined" the sink is the first chunk, as released; with "separate" it is the anchor, one latent frame, which
takes in the chunk's frames one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.memory.storage import has_scales, storage_dtype
from bvjax.policies import rolling
from bvjax.policies.schedule import Round, chunk_alone

WINDOW, DECAY = 1, 0.999


def configure(model: ModelConfig) -> ModelConfig:
    """`rolling` with the sink."""
    policy = dataclasses.replace(
        model.policy,
        window=model.policy.window or WINDOW,
        sink=True,
        decay=model.policy.decay or DECAY,
    )
    return rolling.configure(dataclasses.replace(model, policy=policy))


def rounds(model: ModelConfig, grid: ChunkGrid, captions: Sequence[int]) -> Iterator[Round]:
    """A round a chunk; before it the sink takes in the chunk that it sees no more."""
    for chunk in grid.chunk_ids:
        left = chunk - 1 - model.retrieval.num_recent
        absorb = (left,) if left > 0 else ()
        yield chunk_alone(chunk, grid.row_of(chunk), model.sampler.steps, absorb=absorb)


def check(model: ModelConfig, num_chunks: int) -> None:
    """Raises `UserError` for a decay that is none, and rows that cannot be averaged as they are stored."""
    if not 0 < model.policy.decay < 1:
        raise UserError(f"policy.decay is {model.policy.decay}; it must be above 0 and below 1")
    if has_scales(storage_dtype(model)) or model.memory.offload == "host":
        raise UserError(
            "policy reward_forcing averages entries where they are: it needs memory.offload='none' and "
            "memory.dtype '' or bfloat16"
        )
