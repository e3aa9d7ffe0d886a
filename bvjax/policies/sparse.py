"""Dynamic sparse KV cache: the rolling window with BuildSparseKV of each entry (the paper's Table 5), no retrieval.

What is kept is `memory.tau`, 0.98 or 0.97 in the paper, of as much as `memory.capacity` holds.
"""

from __future__ import annotations

import dataclasses

from bvjax.config import ModelConfig
from bvjax.policies.rolling import rolling_window


def configure(model: ModelConfig) -> ModelConfig:
    """The window of `rolling`, its entries sparse."""
    model = rolling_window(model)
    return dataclasses.replace(
        model, retrieval=dataclasses.replace(model.retrieval, dense_recent=False)
    )
