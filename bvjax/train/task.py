"""What `loop.fit` asks of the thing it trains, and of the data it trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Array, Float

from bvjax.train.state import Params


class Task(Protocol):
    """A model with its loss.

    `part` is its name in a weights folder: vae, text or dit. `frozen` names the top-level modules of its
    parameters that training leaves as they are.
    """

    part: str

    @property
    def frozen(self) -> tuple[str, ...]: ...

    def init(self, key: jax.Array) -> Params:
        """Random parameters (traceable)."""

    def loss(
        self, params: Params, batch: dict[str, Array], key: jax.Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean loss over the batch and scalars to log (traceable)."""

    def sample(self, params: Params, folder: Path, step: int) -> dict[str, float]:
        """Writes a picture of what the model does into `folder`; returns held-out scalars."""

    def export(self, params: Params, folder: Path, meta: dict[str, Any]) -> None:
        """Writes the trained part into the weights folder."""


class DataIterator(Protocol):
    """An endless iterator of batches that can say where it stands, as Grain's iterators do."""

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> Any:
        """Position after the batches handed out so far: JSON-able or bytes."""

    def set_state(self, state: Any) -> None: ...
