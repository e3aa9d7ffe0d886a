"""CausVid (arXiv 2412.07772) beyond its length: the video is made in segments, each begun with the end of the last.

A segment has `policy.window` chunks (7 of 3 latents), each of which sees all before it in the segment.  Then the bank is
emptied, times begin again, and the last chunk is the first of the next segment, its beginning a frame that is decoded
and encoded again as a first frame: with chunk.first="joined" in place of the chunk's first latent (3 overlapping latents,
as released), with "separate" as the anchor before the chunk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.policies import rolling
from bvjax.policies.schedule import Commit, Round, chunk_alone

SEGMENT = 7


def configure(model: ModelConfig) -> ModelConfig:
    """A bank that holds a segment, whole."""
    anchor, segment = model.memory.anchor, model.policy.window or SEGMENT
    policy = dataclasses.replace(
        model.policy, window=max(segment - 1, 1), sink=anchor and model.chunk.first == "separate"
    )
    model = rolling.configure(dataclasses.replace(model, policy=policy))
    policy = dataclasses.replace(model.policy, window=segment, sink=False)
    return dataclasses.replace(model, policy=policy)


def rounds(model: ModelConfig, grid: ChunkGrid, captions: Sequence[int]) -> Iterator[Round]:
    """A round a chunk; the first new one of a segment begins with a restart from the chunk before."""
    new = model.policy.window - 1  # chunks that a segment after the first adds
    for number, chunk in enumerate(grid.chunk_ids):
        origin = max(0, number - 1) // new * new
        restart = origin > 0 and origin == number - 1
        yield chunk_alone(
            chunk,
            grid.row_of(chunk),
            model.sampler.steps,
            restart=restart,
            refresh=(Commit(chunk - 1, grid.row_of(chunk - 1)),) if restart else (),
            origin=origin,
        )


def check(model: ModelConfig, num_chunks: int) -> None:
    """Raises `UserError` for segments of one chunk, which would only repeat it, and what cannot start anew."""
    if model.policy.window < 2:
        raise UserError(
            f"policy.window is {model.policy.window}; a segment of policy causvid has 2 chunks or more"
        )
    if model.retrieval.num_recent != model.policy.window - 1:
        raise UserError(
            f"retrieval.num_recent is {model.retrieval.num_recent}; with policy causvid it is policy.window - 1 = "
            f"{model.policy.window - 1}: give policy.window alone"
        )
    if model.chunk.first == "overlap" or model.memory.offload == "host":
        raise UserError(
            "policy causvid begins segments anew: it needs chunk.first separate or joined, and "
            "memory.offload='none'"
        )
