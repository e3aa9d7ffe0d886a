"""Rolling Forcing (arXiv 2509.25161): a window of blocks on a diagonal of levels, and a cache with a sink.

The window has five chunks, each a fifth of the steps noisier than the one before (its few-step sampler has five: 1000,
800, 600, 400, 200); all see each other.  Each round takes all a fifth further: one is finished, and one enters.  Before
the window they see the sink, entry 0, and the last `policy.window` chunks of a rolling cache (1: with blocks of 3
latents attention reaches 21, 15 of them in the window, 3 of the sink and 3 before it).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.policies import rolling
from bvjax.policies.schedule import Commit, Round, clock, staggered
from bvjax.policies.windows import all_seeing

PLACES = 5
CACHED = 1  # chunks of the cache between sink and window
STEPS = (1000.0, 800.0, 600.0, 400.0, 200.0)


def configure(model: ModelConfig) -> ModelConfig:
    """A rolling cache with the sink; for few-step weights the published steps."""
    policy = dataclasses.replace(model.policy, window=model.policy.window or CACHED, sink=True)
    model = rolling.configure(dataclasses.replace(model, policy=policy))
    sampler = dataclasses.replace(model.sampler, history_noise=0.0, ar_step=0, causal_block=1)
    if sampler.kind == "few_step":
        sampler = dataclasses.replace(sampler, few_step=STEPS)
    steps = len(STEPS) if sampler.kind == "few_step" else -(-sampler.steps // PLACES) * PLACES
    sampler = dataclasses.replace(sampler, steps=steps)
    return dataclasses.replace(
        model,
        sampler=sampler,
        noise=dataclasses.replace(model.noise, base="independent", shuffle=0),
    )


def rounds(model: ModelConfig, grid: ChunkGrid, captions: Sequence[int]) -> Iterator[Round]:
    """A round for each chunk that enters or comes out."""
    cached, lag = model.retrieval.num_recent, model.sampler.steps // PLACES
    for flying, finished in staggered(grid, model.sampler.steps, lag):
        inside = [i for i, _ in flying]
        before = range(max(grid.first_id, inside[0] - cached), inside[0])
        entries = tuple(sorted({*(j for j in (0,) if j < inside[0]), *before}))
        times = clock(model, grid, [*entries, *inside])
        yield Round(
            places=all_seeing(grid, flying, entries, times),
            passes=lag,
            emits=finished,
            commits=tuple(Commit(i, grid.row_of(i)) for i in finished),
            entry_times={j: times[j] for j in entries},
        )


def check(model: ModelConfig, num_chunks: int) -> None:
    """Raises `UserError` for steps that are not five parts."""
    if model.sampler.steps % PLACES:
        raise UserError(
            f"sampler.steps is {model.sampler.steps}; policy rolling_forcing has {PLACES} chunks under way, so it "
            f"must be a multiple of {PLACES}"
        )
