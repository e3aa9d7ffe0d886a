"""The task of a few-step generator: a student, the average of its weights, and a teacher that stays as it is."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bvjax.errors import UserError
from bvjax.losses.clip import make_clip
from bvjax.losses.consistency import ConsistencyDistillation
from bvjax.losses.ode_regression import OdeRegression
from bvjax.random import AnyKey
from bvjax.train.dit_objective import DiTObjective
from bvjax.train.one_model import OneModelTask
from bvjax.train.state import TrainState
from bvjax.train.step import LossFn
from bvjax.train.task import Batch, Metrics, Params


@flax.struct.dataclass
class DistillationState(TrainState):
    """The teacher is part of the state, so that a run is continued with the teacher that it began with."""

    teacher: Params


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DistillationObjective(DiTObjective):
    """A student's DiT; batches and samples are those of `DiTObjective`."""

    method: ConsistencyDistillation | OdeRegression
    stage: str = "few-step"

    def distill(
        self, params: Params, average: Params, teacher: Params, batch: Batch, key: AnyKey
    ) -> tuple[Float[Array, ""], Metrics]:
        """The loss of the three networks' weights over a batch."""
        clip = make_clip(batch, self.teacher.grid)
        return self.method.loss(params, average, teacher, clip, key)

    def heldout_of(self, params: Params, teacher: Params) -> dict[str, float]:
        """Means over the held-out stories, of a student that is its own average."""
        return self.heldout_means(
            lambda story, key: self._distill(params, params, teacher, story, key)
        )

    @functools.cached_property
    def _distill(self):
        return jax.jit(self.distill)


@dataclasses.dataclass(frozen=True, eq=False)
class DistillationTask(OneModelTask):
    """Trains a student that starts as its teacher."""

    objective: DistillationObjective

    def init_state(self, seed: int, params: Params | None = None) -> DistillationState:
        """The state before the first step; `params` are the teacher's.  Raises `UserError` without them."""
        if params is None:
            raise UserError(
                "a few-step generator starts from trained weights: give `init_from`, a weights folder of stage1"
            )
        state = super().init_state(seed, params)
        return DistillationState(**vars(state), teacher=jax.tree.map(jnp.copy, params))

    def loss_of(self, state: DistillationState) -> LossFn:
        def loss(params, batch, key):
            return self.objective.distill(params, state.ema, state.teacher, batch, key)

        return loss

    def sample(self, state: DistillationState, folder: Path, step: int) -> dict[str, float]:
        self.objective.draw(state.ema, folder, step)
        return self.objective.heldout_of(state.ema, state.teacher)
