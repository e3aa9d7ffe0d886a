"""Training the small text encoder on captions; afterwards it is frozen."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from bvjax.config import ModelConfig
from bvjax.files import write_atomic
from bvjax.losses.text_pretrain import TextPretrainConfig, cosine, init_params, text_pretrain_loss
from bvjax.nets.text import UMT5Encoder, mean_embedding
from bvjax.random import AnyKey
from bvjax.train.task import Params
from bvjax.weights import save_weights

PIXELS = 12  # of the picture, for each pair of captions


@dataclasses.dataclass(frozen=True)
class TextObjective:
    """Batches are those of `text_pretrain_loss`; `heldout(i)` gives the i-th held-out batch."""

    model: ModelConfig
    objective: TextPretrainConfig
    heldout: Callable[[int], dict[str, np.ndarray]]
    tokenizer: Path
    vocabulary: Path
    weights_dtype: str
    part: str = "text"
    axes: tuple[str, ...] = ("data",)
    frozen: tuple[str, ...] = ()

    def init(self, key: jax.Array) -> Params:
        return init_params(self.objective, key)

    def loss(
        self, params: Params, batch: dict[str, Array], key: AnyKey
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        return text_pretrain_loss(params, self.objective, batch, key)

    def sample(self, params: Params, folder: Path, step: int) -> dict[str, float]:
        """Cosine of every two captions of (at most four) held-out stories as a picture, and held-out metrics."""
        batch = self.heldout(0)
        _, metrics = _evaluate(self.objective, params, batch, jax.random.key(0))
        tiles = [
            _similarity(self.objective, params, batch["ids"][i], batch["mask"][i])
            for i in range(min(4, len(batch["ids"])))
        ]
        picture = np.concatenate([np.asarray(tile) for tile in tiles], axis=1)
        shades = (
            (255 * np.clip(picture, 0.0, 1.0)).astype(np.uint8).repeat(PIXELS, 0).repeat(PIXELS, 1)
        )
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(shades).save(folder / f"{step:07d}.png")
        return {f"heldout_{name}": float(value) for name, value in metrics.items()}

    def export(self, params: Params, folder: Path, meta: dict[str, Any]) -> None:
        """Writes the encoder without its training heads, the tokenizer and the words it has seen."""
        save_weights(
            folder,
            self.model,
            {"text": params["encoder"]},
            tokenizer=self.tokenizer,
            meta=meta,
            dtype=self.weights_dtype,
        )
        write_atomic(folder / self.vocabulary.name, self.vocabulary.read_bytes())


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(objective, params, batch, key):
    return text_pretrain_loss(params, objective, batch, key)


@functools.partial(jax.jit, static_argnums=0)
def _similarity(objective, params, ids, mask):
    states = UMT5Encoder(objective.text).apply({"params": params["encoder"]}, ids, mask)
    return cosine(mean_embedding(states, mask))
