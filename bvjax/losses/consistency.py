"""Causal consistency distillation: a few-step generator from the teacher-forced model, without generated data.

With f(x, sigma) = x - sigma v(x, sigma), the clean latents that a network sees behind x_sigma, and neighbouring levels
sigma > sigma' of N steps from noise to data,

  x_sigma  = (1 - sigma) x0 + sigma eps            of real latents x0
  x_sigma' = x_sigma + (sigma' - sigma) v_teacher  one Euler step of the guided teacher
  loss     = mean |f_student(x_sigma, sigma) - sg f_average(x_sigma', sigma')|^2

(Song et al. 2023, Algorithm 2; chunk by chunk with clean history, it is the second stage of Causal Forcing, which has
N = 48, guidance 3 and an average of the student's weights of decay 0.99).  f(x, 0) = x, whatever the network, anchors
it: Causal Forcing's code never draws the last step, to sigma' = 0; here it is drawn like the others.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bvjax.diffusion import flow
from bvjax.diffusion.solvers import euler_step
from bvjax.losses.clip import Clip
from bvjax.losses.distillation import Distillation, TeacherConfig, VelocityFn
from bvjax.random import AnyKey, normal, purpose_key, randint


@dataclasses.dataclass(frozen=True)
class ConsistencyConfig(TeacherConfig):
    """The defaults are Causal Forcing's; its average is `train.ema_decay`."""


def consistency_loss(
    student: VelocityFn,
    average: VelocityFn,
    teacher: VelocityFn,
    latents: Float[Array, "..."],
    noise: Float[Array, "..."],
    sigma: Float[Array, "..."],
    sigma_next: Float[Array, "..."],
) -> Float[Array, "..."]:
    """The loss of each sample: the mean over the axes of `latents` behind those of `sigma`.

    Args:
        student: carries gradient.
        average: the network whose f is aimed at; no gradient reaches it.
        teacher: takes the step; no gradient reaches it.
        latents: clean.
        noise: shaped as `latents`.
        sigma: a level for each sample, above 0.
        sigma_next: the level after it, below `sigma`; may be 0.
    """
    x = jnp.asarray(flow.interpolate(latents, noise, sigma))
    x_next = jax.lax.stop_gradient(euler_step(x, teacher(x, sigma), sigma, sigma_next))
    aim = flow.x0_from_velocity(x_next, average(x_next, sigma_next), sigma_next)
    error = flow.x0_from_velocity(x, student(x, sigma), sigma) - jax.lax.stop_gradient(aim)
    return jnp.mean(jnp.square(error), axis=tuple(range(sigma.ndim, latents.ndim)))


@dataclasses.dataclass(frozen=True)
class ConsistencyDistillation(Distillation):
    """The loss over all that teacher forcing draws."""

    def loss(
        self, params: Any, average: Any, teacher: Any, clip: Clip, key: AnyKey
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The mean over chunks, and those of single latents with their weights.

        Args:
            params: the student's.
            average: those that are aimed at: the moving average of the student's.
            teacher: the teacher's.
            clip: encoded videos.
            key: of this update.
        """
        levels = jnp.asarray(self.levels)
        loss, metrics = jnp.zeros(()), {}
        for name, weight, drawn, part_key in self.parts(clip, key):
            shape = drawn.latents.shape[: drawn.lead]
            place = randint(purpose_key(part_key, "level"), shape, 0, self.config.levels)
            losses = consistency_loss(
                drawn.student(params),
                drawn.student(jax.lax.stop_gradient(average)),
                drawn.teacher(jax.lax.stop_gradient(teacher)),
                drawn.latents,
                normal(purpose_key(part_key, "noise"), drawn.latents.shape),
                levels[place],
                levels[place + 1],
            )
            metrics[name] = losses.mean()
            loss += weight * metrics[name]
        return loss, metrics
