"""Full history: each chunk sees every earlier chunk, whole.

`policy.window` is how many that can be; by default as many as the bank has slots for.
"""

from __future__ import annotations

import dataclasses

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.policies import rolling


def configure(model: ModelConfig) -> ModelConfig:
    """`rolling` with a window that nothing leaves, and with the anchor if the model has one."""
    anchor = model.memory.anchor
    window = model.policy.window or max(model.memory.slots - 1 - anchor, 1)
    policy = dataclasses.replace(model.policy, window=window, sink=anchor)
    return rolling.configure(dataclasses.replace(model, policy=policy))


def check(model: ModelConfig, num_chunks: int) -> None:
    """Raises `UserError` when some chunk has more chunks before it than can be seen."""
    if num_chunks - 1 > model.retrieval.num_recent:
        raise UserError(
            f"policy {model.policy.name} sees {model.retrieval.num_recent} chunks, and this story has {num_chunks}: "
            f"set policy.window={num_chunks - 1}"
        )
