"""Configuration that policies of windows have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.policies.schedule import Place


def without_memory(model: ModelConfig, window: int) -> ModelConfig:
    """The model with no bank but for the anchor, if it has one, and noise of its own for each chunk."""
    return dataclasses.replace(
        model,
        memory=dataclasses.replace(model.memory, slots=1 + model.memory.anchor),
        retrieval=dataclasses.replace(
            model.retrieval, kind="rolling", num_recent=0, num_retrieved=0
        ),
        guidance=dataclasses.replace(model.guidance, memory=0.0),
        noise=dataclasses.replace(model.noise, base="independent", shuffle=0),
        policy=dataclasses.replace(model.policy, window=window),
        sampler=dataclasses.replace(model.sampler, history_noise=0.0, ar_step=0, causal_block=1),
    )


def whole_lag(model: ModelConfig) -> int:
    """Steps by which each of `policy.window` chunks lags; raises `UserError` where they are not whole."""
    steps, window = model.sampler.steps, model.policy.window
    if steps % window:
        raise UserError(
            f"sampler.steps is {steps}; policy {model.policy.name} needs a multiple of policy.window = {window}"
        )
    return steps // window


def check_lag(model: ModelConfig, num_chunks: int) -> None:
    """Raises `UserError` as `whole_lag`."""
    whole_lag(model)


def all_seeing(
    grid: ChunkGrid,
    states: Iterable[tuple[int, int]],
    entries: tuple[int, ...],
    times: Mapping[int, int],
) -> tuple[Place, ...]:
    """Places of chunks that all see each other and the same entries.

    Args:
        states: (id, start) of each, in order of time.
        entries: ids of the bank.
        times: the latent frame at which each begins, for RoPE (`schedule.clock`).
    """
    states = tuple(states)
    inside = [i for i, _ in states]
    return tuple(
        Place(
            i,
            start,
            grid.row_of(i),
            sees=tuple(j for j in inside if j != i),
            entries=entries,
            time=times[i],
        )
        for i, start in states
    )
