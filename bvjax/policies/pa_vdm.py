"""Progressive autoregressive video diffusion (PA-VDM, arXiv 2410.08151): one clean chunk, then ever noisier ones.

`policy.window` chunks of the window are noisy (6 of 5 latents in the released code), steps / window passes apart;
after so many passes the first is clean.  It comes out, is the clean chunk of the next passes, and fresh noise enters at
the end.  All places see each other, and nothing else is remembered.  The window grows at the beginning and shrinks at
the end.  The released sampler is Euler of 30 equal steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.policies.schedule import Round, clock, staggered
from bvjax.policies.windows import all_seeing, whole_lag, without_memory

WINDOW = 6


def configure(model: ModelConfig) -> ModelConfig:
    """No bank but for the anchor, whole chunks of steps, Euler."""
    window = model.policy.window or WINDOW
    model = without_memory(model, window)
    steps = -(-model.sampler.steps // window) * window
    return dataclasses.replace(
        model,
        sampler=dataclasses.replace(model.sampler, kind="euler", steps=steps),
    )


def rounds(model: ModelConfig, grid: ChunkGrid, captions: Sequence[int]) -> Iterator[Round]:
    """A round for each chunk that enters or comes out."""
    steps, lag, clean = model.sampler.steps, whole_lag(model), None
    for flying, finished in staggered(grid, steps, lag):
        states = flying if clean is None else ((clean, steps), *flying)
        inside = [i for i, _ in states]
        anchor = (0,) if model.memory.anchor and clean is None else ()
        times = clock(model, grid, [*anchor, *inside])
        yield Round(
            places=all_seeing(grid, states, anchor, times),
            passes=lag,
            emits=finished,
            entry_times={0: 0} if anchor else {},
        )
        clean = finished[-1] if finished else clean
