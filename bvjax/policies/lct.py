"""Long context tuning (LCT, arXiv 2503.10589), read as a policy: shots of one window attend to each other in full.

A window has `policy.window` chunks, each under its own caption, all of whose tokens see each other.  The first window
is denoised whole; each later one keeps the last half of the window before as clean history and makes as many new
chunks (the paper's extension by levels of their own).  This is a reading: no code was released, and its text is
interleaved in one sequence (MMDiT), where here each chunk has cross-attention to its own caption.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.policies.schedule import Round, clock
from bvjax.policies.windows import all_seeing, without_memory

WINDOW = 4


def configure(model: ModelConfig) -> ModelConfig:
    """No bank but for the anchor."""
    return without_memory(model, model.policy.window or WINDOW)


def rounds(model: ModelConfig, grid: ChunkGrid, captions: Sequence[int]) -> Iterator[Round]:
    """A round a window."""
    ids, steps, window = list(grid.chunk_ids), model.sampler.steps, model.policy.window
    made = 0
    while made < len(ids):
        history = ids[max(0, made - window // 2) : made]
        new = ids[made : made + window - len(history)]
        states = [*((i, steps) for i in history), *((i, 0) for i in new)]
        anchor = (0,) if model.memory.anchor and not made else ()
        times = clock(model, grid, [*anchor, *history, *new])
        yield Round(
            places=all_seeing(grid, states, anchor, times),
            passes=steps,
            emits=tuple(new),
            entry_times={0: 0} if anchor else {},
        )
        made += len(new)
