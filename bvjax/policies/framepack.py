"""FramePack (arXiv 2504.12626): a section sees a packed past of constant size; nothing is cached.

The start frame and the nearest latent frame are whole, the next two are pooled 2 x 2 x 2 and the next sixteen 4 x 4 x 4,
so that the past costs the same whatever its length.  `framepack_f1` makes sections forward, each seeing what was
before.  `framepack` makes the last section first (inverted anti-drifting): each sees the start frame, far away in
time by `padding` sections, and the frames that come after it.

The released model has patch embeddings of its own for pooled frames, which begin as its own averaged; here latents are
averaged and embedded as all others, and a pooled token is at the mean position (theirs: the mean of the rotations).
Frames that there are not yet are left out (theirs: zeros).  Sections have the model's own length (theirs: 9 latents).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.policies.schedule import Pack, Place, Round
from bvjax.policies.windows import without_memory

# (latent frames, pooled by), from the nearest on.
PACKS = ((1, (1, 1, 1)), (2, (2, 2, 2)), (16, (4, 4, 4)))
HISTORY = sum(count for count, _ in PACKS)


def configure(model: ModelConfig) -> ModelConfig:
    """No bank: the start frame is packed with the others."""
    model = without_memory(model, 0)
    memory = dataclasses.replace(model.memory, anchor=False, slots=1)
    return dataclasses.replace(model, memory=memory)


def check(model: ModelConfig, num_chunks: int) -> None:
    """Raises `UserError` where there is no start frame, patches in time that pooling cuts, or too small chunks."""
    name = f"policy {model.policy.name}"
    if model.chunk.first != "separate" or model.dit.patch[0] != 1:
        raise UserError(
            f"{name} begins with a frame by itself and patches of one latent frame: it needs "
            "chunk.first='separate' and dit.patch of 1 in time"
        )
    grid = ChunkGrid.of(model)
    tokens = grid.tokens_per_latent + sum(_tokens(grid, *pack) for pack in PACKS)
    if tokens > grid.tokens_per_chunk:
        raise UserError(
            f"{name} packs the past into {tokens} tokens, and a chunk has {grid.tokens_per_chunk}; use a larger "
            "chunk.frames"
        )


def _tokens(grid: ChunkGrid, frames: int, pool: tuple[int, int, int]) -> int:
    (height, width), (_, ph, pw) = grid.latent_size, grid.patch
    return -(-frames // pool[0]) * -(-height // (ph * pool[1])) * -(-width // (pw * pool[2]))


def paddings(sections: int) -> list[int]:
    """Sections between the start frame and each section, in the order in which they are made.

    Of more than four, the released code says 2 for all that are further away.
    """
    if sections > 4:
        return [3, *[2] * (sections - 3), 1, 0]
    return list(reversed(range(sections)))


def inverted_rounds(
    model: ModelConfig, grid: ChunkGrid, captions: Sequence[int]
) -> Iterator[Round]:
    """A round a section, the last first."""
    length, last = grid.latents_per_chunk, grid.num_latents
    for chunk, padding in zip(reversed(grid.chunk_ids), paddings(grid.num_chunks), strict=True):
        begin = 1 + padding * length
        packed, frame, time = (
            [Pack((0,), (1, 1, 1), 0)],
            grid.latent_range(chunk)[1],
            begin + length,
        )
        for count, pool in PACKS:
            frames = tuple(range(frame, min(frame + count, last)))
            if frames:
                packed.append(Pack(frames, pool, time))
            frame, time = frame + count, time + count
        yield _section(model, grid, chunk, begin, tuple(packed))


def forward_rounds(model: ModelConfig, grid: ChunkGrid, captions: Sequence[int]) -> Iterator[Round]:
    """A round a section, the first first; the start frame at time 0, the section behind all that can be packed."""
    begin = 1 + HISTORY
    for chunk in grid.chunk_ids:
        packed, stop, time = [Pack((0,), (1, 1, 1), 0)], grid.latent_range(chunk)[0], begin
        for count, pool in PACKS:
            first, time = max(stop - count, 0), time - count
            if first < stop:
                # The nearest frames keep their distance when there are fewer.
                packed.append(Pack(tuple(range(first, stop)), pool, time + count - (stop - first)))
            stop = max(stop - count, 0)
        yield _section(model, grid, chunk, begin, tuple(packed))


def _section(model, grid, chunk, begin, packed):
    return Round(
        places=(Place(chunk, 0, grid.row_of(chunk), time=begin, entries=()),),
        passes=model.sampler.steps,
        emits=(chunk,),
        packed=packed,
    )
