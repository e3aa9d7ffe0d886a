"""What policies of windows have in common."""

from __future__ import annotations

import dataclasses

from bvjax.config import ModelConfig
from bvjax.errors import UserError


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
