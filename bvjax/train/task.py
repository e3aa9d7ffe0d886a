"""The interfaces that `loop.fit` needs: of the task it trains, and of its data.

A task owns its state and how a step changes it.  One network with one loss is `one_model.OneModelTask`; several
networks that train each other (a generator and its critic) are a state with a part for each, and a step that
updates all of them as often as they need.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import jax
import numpy as np
import optax
from jaxtyping import Array, Float

from bvjax.sharding import Layout

Params = Any  # nested dict of float arrays
Batch = dict[str, Array]
Metrics = dict[str, Float[Array, ""]]
State = Any  # a frozen pytree of arrays that has `step`: steps done so far, an int32 scalar
S = TypeVar("S")

EXAMPLE = "example"  # of a batch: the numbers of its examples, for messages; not handed to the task


class Task(Protocol[S]):
    """A network or networks to train.

    Its state `S` is any frozen pytree of arrays with an int32 scalar `step`, the steps done so far.  The state is
    all that a checkpoint holds besides the data's position, so everything that a step depends on is in it: also
    the key of its random numbers, as `jax.random.key_data`.
    """

    @property
    def name(self) -> str:
        """The name of the trained network in messages: "vae"."""

    @property
    def layout(self) -> Layout:
        """Batches are sharded over its axis `data`."""

    @property
    def rates(self) -> Mapping[str, optax.Schedule]:
        """The learning rates by name, as functions of `state.step`: {"learning rate": schedule}."""

    def with_schedule_end(self, end: int) -> Self:
        """The same task with the learning rates of a run of `end` steps."""

    def on_one_device(self) -> Self:
        """The same task without a mesh."""

    def init_state(self, seed: int, params: Params | None = None) -> S:
        """The state before the first step (traceable).

        Args:
            seed: of all random numbers.
            params: the parameters that training starts from, where it does not start from random ones.
        """

    def parameters(self, state: S) -> Mapping[str, Params]:
        """The parameters of each network by its name: what the log counts."""

    def shardings(self, state: S) -> S:
        """The sharding of each leaf of a state (or of its shapes), see `mesh.state_shardings`."""

    def train_step(self, state: S, batch: Batch) -> tuple[S, Metrics]:
        """The state after one step with one batch, and float32 scalars under names that are always the same.

        Traceable and pure.  A scalar that is not finite stops the run, and its name is what the message says: where
        there are several networks, it begins with the network's.
        """

    def sample(self, state: S, folder: Path, step: int) -> dict[str, float]:
        """Writes a picture of what the model does into `folder`; returns held-out scalars."""

    def export(self, state: S, folder: Path, meta: dict[str, Any]) -> None:
        """Writes what was trained into the weights folder."""


class DataIterator(Protocol):
    """An endless iterator of batches that can say where it stands, as Grain's iterators do.

    Batches may have the numbers of their examples: `EXAMPLE`, or `example:PART` for each of several parts that examples
    are made of. `name_of(number)`, or `name_of(number, part)`, is how messages call one, where there is such a method.
    """

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> Any:
        """Position after the batches handed out so far: JSON-able or bytes."""

    def set_state(self, state: Any) -> None: ...


def shapes_of(task: Task, params: Params | None = None) -> State:
    """The state of a task before its first step as shapes with shardings."""
    shapes = jax.eval_shape(lambda start: task.init_state(0, start), params)
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        shapes,
        task.shardings(shapes),
    )
