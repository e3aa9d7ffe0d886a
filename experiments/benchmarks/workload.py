"""The work that both frameworks do: which pair, on which model, at which size."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from experiments.benchmarks import models

PAIRS = ("dit", "chunk", "vae", "text", "minute", "attention")
MINUTE = 15  # chunks
VALID_TEXT = 120  # tokens of the caption; the rest is padding


@dataclasses.dataclass(frozen=True)
class Workload:
    """One pair of programs.  `attention` needs `shape` and no model."""

    pair: str
    weights: str | None = None
    preset: str | None = None
    overrides: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()  # of attention: queries, keys, heads, their width
    dtype: str = "float32"  # of both sides' matmuls

    @classmethod
    def of(cls, request: dict) -> Workload:
        """Reads it from JSON."""
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in request.items()}
        return cls(**fields)

    def load(self, *parts: str):
        """(model, parameters of `parts`), as `models.load`; few-step and Euler samplers alone.

        UniPC is replaced by Euler, whose arithmetic both sides have; beside the network neither
        costs anything.
        """
        parts_of = {"dit": "dit", "vae": "vae", "text": "text"}
        overrides = [*self.overrides, *(f"{parts_of[p]}.dtype={self.dtype}" for p in parts)]
        model, params = models.load(self.weights, self.preset, overrides, parts)
        if model.sampler.kind == "unipc":
            sampler = dataclasses.replace(model.sampler, kind="euler")
            model = dataclasses.replace(model, sampler=sampler)
        return model, params


def latents(model: ModelConfig, frames: int) -> np.ndarray:
    """Random latents [l, h, w, z]; the same in every process."""
    size = (frames, *ChunkGrid.of(model).latent_size, model.dit.in_channels)
    return np.random.default_rng(0).standard_normal(size, np.float32)


def caption(model: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, [1, rows]."""
    rows = model.text.max_length
    ids = np.random.default_rng(0).integers(2, min(1000, model.text.vocab_size), (1, rows))
    return ids.astype(np.int32), np.arange(rows)[None] < min(VALID_TEXT, rows // 2)


def guarded(answer: Callable[[dict], Any]) -> Callable[[dict], Any]:
    """`answer`, with a failure as an answer too: {"error": its last line}."""

    def safe(request: dict) -> Any:
        try:
            return answer(request)
        except Exception as error:  # the other pairs may still work here
            traceback.print_exc()
            return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]}

    return safe
