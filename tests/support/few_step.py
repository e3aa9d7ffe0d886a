"""The smallest few-step model, with stories of random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from bvjax.config import (
    BuildConfig,
    ChunkConfig,
    DiTConfig,
    GuidanceConfig,
    MemoryConfig,
    ModelConfig,
    RetrievalConfig,
    RopeConfig,
    SamplerConfig,
    TextConfig,
)
from tests.support.random_params import random_dit

CHUNKS = 4
MODEL = ModelConfig(
    name="small",
    chunk=ChunkConfig(height=32, width=32, fps=2, frames=4),
    text=TextConfig(dim=8, max_length=3),
    dit=DiTConfig(dim=16, num_heads=2, num_layers=1, ffn_dim=16, freq_dim=8),
    memory=MemoryConfig(slots=4, capacity=4, tau=0.9),
    build=BuildConfig(n_recent=2, n_random=1),
    retrieval=RetrievalConfig(num_recent=1, num_retrieved=1),
    rope=RopeConfig(mode="window"),
    sampler=SamplerConfig(kind="few_step", steps=2, few_step=(1000.0, 500.0)),
    guidance=GuidanceConfig(scale=1.0),
)


def examples(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Encoded examples of random numbers."""
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(count, CHUNKS, 3, 8)).astype(np.float32)
    latents = rng.normal(size=(count, 1 + CHUNKS, 4, 4, 16)).astype(np.float32)
    return {"latents": latents, "text": text, "embedding": text.mean(2)}


def random_params(seed: int = 1) -> Any:
    """Random everywhere: a head of zeros, as initialised, would have no gradient behind it."""
    return random_dit(MODEL, seed)
