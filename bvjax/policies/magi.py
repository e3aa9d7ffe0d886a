"""MAGI-1 (arXiv 2505.13211): chunks in flight, each a quarter of the schedule behind the one before.

64 steps are four stages of 16 passes; a chunk sees itself and so many chunks before it as its stage says: 4, 3, 2, 1
from noisy to clean (`noise2clean_kvrange` 5, 4, 3, 2 counts the chunk itself).  What has left the window is seen as
entries of the bank, encoded alone under the null caption at t = 0.9999.  Guidance has three branches, by what was
before and by the caption: 1.5 and 7.5 while t < 0.3 (t = 1 is clean), then 1 and 0.  The released code: `t` is
u^2 with u in equal steps, shifted by 3 (`sampler.schedule="magi"`), Euler.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.diffusion import solvers
from bvjax.errors import UserError
from bvjax.policies import rolling
from bvjax.policies.schedule import NULL, Commit, Place, Round, clock, staggered

STAGES = 4
RANGE = (4, 3, 2, 1)  # chunks before its own that a chunk sees, by its stage
BY_PAST, BY_TEXT, GUIDED_UNTIL = 1.5, 7.5, 0.3
LABEL = 1e-4  # sigma of the clean pass


def configure(model: ModelConfig) -> ModelConfig:
    """Steps of a multiple of four, a bank of the last chunks, whole, each encoded alone."""
    sampler = model.sampler
    steps = -(-sampler.steps // STAGES) * STAGES
    policy = dataclasses.replace(model.policy, window=RANGE[0])
    anchored = model.memory.anchor
    model = rolling.configure(dataclasses.replace(model, policy=policy))
    return dataclasses.replace(
        model,
        memory=dataclasses.replace(model.memory, anchor=anchored, slots=RANGE[0] + 1 + anchored),
        build=dataclasses.replace(model.build, context="none", label=LABEL),
        sampler=dataclasses.replace(
            sampler,
            kind="euler",
            schedule="magi",
            steps=steps,
            shift=3.0,
            history_noise=0.0,
            ar_step=0,
        ),
        noise=dataclasses.replace(model.noise, base="independent", shuffle=0),
    )


def rounds(model: ModelConfig, grid: ChunkGrid, captions: Sequence[int]) -> Iterator[Round]:
    """A round a stage: up to four chunks, a stage apart."""
    lag = model.sampler.steps // STAGES
    oldest = 0 if model.memory.anchor else grid.first_id
    for flying, finished in staggered(grid, model.sampler.steps, lag):
        inside = [i for i, _ in flying]
        reach = {i: range(max(oldest, i - RANGE[start // lag]), i) for i, start in flying}
        entries = {i: tuple(j for j in reach[i] if j not in inside) for i in inside}
        seen = sorted({j for ids in entries.values() for j in ids})
        times = clock(model, grid, [*seen, *inside])
        yield Round(
            places=tuple(
                Place(
                    i,
                    start,
                    grid.row_of(i),
                    sees=tuple(j for j in reach[i] if j in inside),
                    entries=entries[i],
                    time=times[i],
                )
                for i, start in flying
            ),
            passes=lag,
            emits=finished,
            commits=tuple(Commit(i, NULL) for i in finished),
            entry_times={j: times[j] for j in seen},
        )


def scales(model: ModelConfig) -> tuple[tuple[float, float], ...]:
    """Guidance by the past and by the caption at each step; none where `guidance.scale` is 1 (distilled weights)."""
    if model.guidance.scale == 1.0:
        return ((1.0, 1.0),) * model.sampler.steps
    clean = 1.0 - solvers.sigmas(model.sampler)[:-1]
    return tuple((BY_PAST, BY_TEXT) if t < GUIDED_UNTIL else (1.0, 0.0) for t in clean)


def check(model: ModelConfig, num_chunks: int) -> None:
    """Raises `UserError` for steps that are not four stages, and an order of windows that this has not."""
    if model.sampler.steps % STAGES:
        raise UserError(
            f"sampler.steps is {model.sampler.steps}; policy magi has {STAGES} stages, so it must be a multiple "
            f"of {STAGES}"
        )
