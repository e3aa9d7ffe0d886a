"""The task of a LoRA: its factors are trained, the DiT they change is part of the state and stays as it is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp

from bvjax.distributed import exchange
from bvjax.errors import UserError
from bvjax.train import mesh
from bvjax.train.dit_objective import DiTObjective
from bvjax.train.lora import LoraConfig, Target, find_targets, init_factors, merge
from bvjax.train.lora_files import write_lora
from bvjax.train.one_model import OneModelTask
from bvjax.train.state import TrainState, init_state
from bvjax.train.step import LossFn
from bvjax.train.task import Params, State

FOLDER = "lora"  # of a weights folder


@flax.struct.dataclass
class LoraState(TrainState):
    """`params`, their average and the optimizer's state are of the factors.

    The DiT is part of the state, an argument of each step; checkpoints hold its hash (`bvjax.train.frozen`).
    """

    base: Params


@dataclasses.dataclass(frozen=True, eq=False)
class LoraTask(OneModelTask):
    """Trains a LoRA of the DiT of `objective`; samples and exports are of the factors' moving average."""

    objective: DiTObjective
    lora: LoraConfig = LoraConfig(rank=1)

    def __post_init__(self):
        if self.optimizer.kind != "adamw":
            raise UserError(
                f"optimizer.kind is {self.optimizer.kind!r}; a LoRA is trained with adamw, because its factors are no "
                "weights whose updates could be made orthogonal"
            )

    @functools.cached_property
    def targets(self) -> tuple[Target, ...]:
        """The leaves that are changed."""
        return find_targets(self.objective.model, self.lora)

    def merged(self, base: Params, factors: Params) -> Params:
        """The DiT's parameters with the LoRA in them, sharded as they are."""
        whole = merge(base, factors, self.targets, self.lora.scale)
        return self.layout.constrain_parameters(whole)

    def init_state(self, seed: int, params: Params | None = None) -> LoraState:
        """The state before the first step; `params` are the DiT's, None: random ones."""
        init_key, _ = jax.random.split(jax.random.key(seed))
        base = self.objective.init(init_key) if params is None else params
        factors = lambda key: init_factors(self.targets, self.lora.rank, key)
        state = init_state(factors, self._optimizer(), seed)
        return LoraState(**vars(state), base=jax.tree.map(jnp.copy, base))

    def without_frozen(self, state: LoraState) -> TrainState:
        names = [field.name for field in dataclasses.fields(TrainState)]
        return TrainState(**{name: getattr(state, name) for name in names})

    def with_frozen(self, state: TrainState, params: Params) -> LoraState:
        return LoraState(**vars(state), base=jax.tree.map(jnp.copy, params))

    def parameters(self, state: State) -> Mapping[str, Params]:
        return {"LoRA": state.params, "DiT that it changes": state.base}

    def shardings(self, state: State) -> LoraState:
        return mesh.state_shardings(self.layout, state, state.base)

    def loss_of(self, state: State) -> LossFn:
        def loss(factors, batch, key):
            return self.objective.loss(self.merged(state.base, factors), batch, key)

        return loss

    def sample(self, state: State, folder: Path, step: int) -> dict[str, float]:
        return self.objective.sample(self._merged(state.base, state.ema), folder, step)

    def export(self, state: State, folder: Path, meta: dict[str, Any]) -> None:
        """Writes the files of `lora_files` into the folder `lora` of a weights folder."""
        factors = exchange.whole(state.ema)
        if jax.process_index() == 0:
            dtype = self.objective.weights_dtype
            write_lora(folder / FOLDER, self.targets, factors, self.lora, meta, dtype)

    @functools.cached_property
    def _merged(self):
        return jax.jit(self.merged)
