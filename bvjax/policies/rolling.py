"""Rolling KV cache (Self Forcing, arXiv 2506.08009): each chunk sees the last W chunks, whole, and nothing else.

`policy.window` is W (Self-Forcing's `local_attn_size` in chunks, less the chunk itself).  `policy.sink` keeps entry 0
for good, as its `sink_size` does: the first chunk with chunk.first="joined", latent 0 with "separate".
"""

from __future__ import annotations

import dataclasses

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig


def configure(model: ModelConfig) -> ModelConfig:
    """A bank of whole chunks, the oldest evicted; W is by default as many chunks as the model sees."""
    model = rolling_window(model)
    return dataclasses.replace(
        model,
        memory=dataclasses.replace(
            model.memory,
            tau=1.0,
            capacity=max(ChunkGrid.of(model).tokens_per_chunk, model.memory.capacity),
        ),
        retrieval=dataclasses.replace(model.retrieval, dense_recent=True),
    )


def rolling_window(model: ModelConfig) -> ModelConfig:
    """The last W chunks, as sparse as `memory` says; slots for them, the sink and what is written."""
    retrieval = model.retrieval
    window = model.policy.window or retrieval.num_recent + retrieval.num_retrieved
    return dataclasses.replace(
        model,
        memory=dataclasses.replace(
            model.memory,
            anchor=model.policy.sink,
            slots=window + 1 + model.policy.sink,
            evict="oldest",
        ),
        retrieval=dataclasses.replace(
            retrieval, kind="rolling", num_recent=window, num_retrieved=0
        ),
        guidance=dataclasses.replace(model.guidance, memory=0.0),  # nothing is retrieved
        policy=dataclasses.replace(model.policy, window=window),
    )
