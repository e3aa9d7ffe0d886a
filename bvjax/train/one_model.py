"""The task of one network with one loss: AdamW or Muon, a schedule, accumulation, a moving average.

What differs between the VAE, the text encoder and the DiT is their `Objective`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from absl import logging
from jaxtyping import Array, Float

from bvjax.distributed import exchange
from bvjax.random import AnyKey
from bvjax.sharding import ONE_DEVICE, Layout
from bvjax.train import mesh
from bvjax.train.config import OneModelConfig
from bvjax.train.optimizer import OptimizerConfig, learning_rate, make_optimizer
from bvjax.train.state import TrainState, init_state, step_key
from bvjax.train.step import (
    Batch,
    LossFn,
    Metrics,
    accumulate,
    apply_gradients,
    average,
    ema_decay_at,
    is_finite,
    keep_unless,
)
from bvjax.train.task import Params, State


class Objective(Protocol):
    """A network with its loss.

    `part` is its name in a weights folder: vae, text or dit.  `frozen` names the top-level modules of its
    parameters that training leaves as they are.  `axes` are those of a mesh that it can be sharded over.
    """

    @property
    def part(self) -> str: ...

    @property
    def axes(self) -> tuple[str, ...]: ...

    @property
    def frozen(self) -> tuple[str, ...]: ...

    def init(self, key: jax.Array) -> Params:
        """Random parameters (traceable)."""

    def loss(
        self, params: Params, batch: Batch, key: AnyKey
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean loss over the batch and scalars to log (traceable)."""

    def sample(self, params: Params, folder: Path, step: int) -> dict[str, float]:
        """Writes a picture of what the model does into `folder`; returns held-out scalars."""

    def export(self, params: Params, folder: Path, meta: dict[str, Any]) -> None:
        """Writes the trained part into the weights folder."""


@dataclasses.dataclass(frozen=True, eq=False)
class OneModelTask:
    """Trains the network of `objective`; samples and exports are of the moving average.

    `layout` is that of `config.mesh`, see `training_layout`.
    """

    objective: Objective
    optimizer: OptimizerConfig
    config: OneModelConfig
    layout: Layout = ONE_DEVICE
    schedule_end: int | None = None  # None: config.steps

    @property
    def name(self) -> str:
        return self.objective.part

    @property
    def rates(self) -> Mapping[str, optax.Schedule]:
        end = self.config.steps if self.schedule_end is None else self.schedule_end
        return {"learning rate": learning_rate(self.optimizer, end)}

    @property
    def micro_batches(self) -> int:
        """How many make an update."""
        return mesh.micro_batches(self.config, self.layout)

    def with_schedule_end(self, end: int) -> OneModelTask:
        return dataclasses.replace(self, schedule_end=end)

    def on_one_device(self) -> OneModelTask:
        objective: Any = self.objective
        if hasattr(objective, "layout"):  # those that are sharded over more than `data`
            objective = dataclasses.replace(objective, layout=ONE_DEVICE)
        return dataclasses.replace(self, objective=objective, layout=ONE_DEVICE)

    def init_state(self, seed: int, params: Params | None = None) -> TrainState:
        return init_state(self.objective.init, self._optimizer(), seed, params)

    def parameters(self, state: TrainState) -> Mapping[str, Params]:
        return {self.name: state.params}

    def shardings(self, state: TrainState) -> TrainState:
        sharded = state.params if len(self.objective.axes) > 1 else {}
        return mesh.state_shardings(self.layout, state, sharded)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One update, see `make_train_step`."""
        step = make_train_step(
            self.loss_of(state),
            self._optimizer(),
            self.rates["learning rate"],
            accum=self.micro_batches,
            ema_decay=self.config.ema_decay,
        )
        return step(state, batch)

    def loss_of(self, state: State) -> LossFn:
        """The loss that a step from `state` descends; all of the state but `params` are constants in it."""
        return self.objective.loss

    def sample(self, state: State, folder: Path, step: int) -> dict[str, float]:
        """Samples of the objective; a network that every process has whole is sampled by process 0 alone."""
        if jax.process_count() > 1 and len(self.objective.axes) == 1:
            params = exchange.local_copy(state.ema)
            return exchange.on_main(lambda: self.objective.sample(params, folder, step))
        return self.objective.sample(state.ema, folder, step)

    def export(self, state: TrainState, folder: Path, meta: dict[str, Any]) -> None:
        params = exchange.whole(state.ema)
        if jax.process_index() == 0:
            self.objective.export(params, folder, meta)

    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.optimizer, self.rates["learning rate"], self.objective.frozen)


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    accum: int = 1,
    ema_decay: float = 0.999,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The update (state, batch) -> (state, metrics), to be jitted.

    Metrics are float32 scalars: those of the loss, `loss`, `lr`, and the global norms `grad_norm`
    (before clipping), `update_norm` and `param_norm` (after the update).  Where the loss or `grad_norm` is not finite
    the state stays but for its step, and `skipped` is 1.

    Args:
        loss_fn: (params, batch, key) -> (mean loss over the batch, dict of scalars).
        optimizer: makes updates of gradients.
        schedule: its learning rate, to be logged.
        accum: micro batches an update; must divide the batch.
        ema_decay: see `ema_decay_at`.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = step_key(state.key, state.step)
        metrics, grads = accumulate(loss_fn, state.params, batch, key, accum, locate=True)
        params, opt_state, norms = apply_gradients(optimizer, state.params, state.opt_state, grads)
        ema = average(state.ema, params, ema_decay_at(ema_decay, state.step))
        metrics |= {"lr": jnp.asarray(schedule(state.step), jnp.float32), **norms}
        finite = is_finite(metrics, "loss", "grad_norm")
        params, ema, opt_state = keep_unless(
            finite, (params, ema, opt_state), (state.params, state.ema, state.opt_state)
        )
        metrics["skipped"] = 1.0 - finite.astype(jnp.float32)
        new = dataclasses.replace(
            state, step=state.step + 1, params=params, ema=ema, opt_state=opt_state
        )
        return new, metrics

    return train_step


def training_layout(config: OneModelConfig, axes: tuple[str, ...], part: str) -> Layout:
    """The layout of `config.mesh`, which says how many micro batches make an update.

    Raises:
        UserError: as `mesh.training_layout`, or the batch cannot be cut so.
    """
    layout = mesh.training_layout(config.mesh, axes, part)
    sizes = config.global_batch_size, config.device_batch_size
    logging.info("batch: %s", mesh.describe_batch(*sizes, layout.size("data")))
    return layout
