"""ODE regression: a few-step generator that learns where the teacher's paths from noise end.

From noise the guided teacher takes N Euler steps to clean latents, and at the levels that the student's sampler visits,

  loss = mean |f_student(x_sigma, sigma) - x_end|^2,    f(x, sigma) = x - sigma v(x, sigma)

(CausVid, Self-Forcing's start, with paths computed beforehand from a bidirectional teacher).  Here the teacher is the
causal one, with clean history, as Causal Forcing shows it must be, and the paths are made as they are needed: no pairs
are stored, and an update costs N guided evaluations of the teacher where consistency distillation costs one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bvjax.diffusion import flow
from bvjax.diffusion.solvers import euler_step
from bvjax.losses.clip import Clip
from bvjax.losses.distillation import Distillation, TeacherConfig, VelocityFn
from bvjax.random import AnyKey, normal, purpose_key, randint


@dataclasses.dataclass(frozen=True)
class OdeConfig(TeacherConfig):
    """Half as many levels as for consistency: each is a step of every path."""

    levels: int = 24


def teacher_path(
    teacher: VelocityFn,
    noise: Float[Array, "..."],
    levels: Float[np.ndarray, "levels"],
    lead: int,
) -> tuple[Float[Array, "steps ..."], Float[Array, "..."]]:
    """The samples at all levels but the last, and the end of the path; no gradient passes.

    Args:
        teacher: the velocity.
        noise: the sample at the first level.
        levels: descending to 0.
        lead: leading axes of the noise that a level has.
    """

    def step(x, of_step):
        sigma, sigma_next = of_step
        at = jnp.full(x.shape[:lead], sigma)
        return euler_step(x, teacher(x, at), sigma, sigma_next), x

    pairs = jnp.asarray(levels[:-1]), jnp.asarray(levels[1:])
    end, samples = jax.lax.scan(step, noise, pairs)
    return jax.lax.stop_gradient((samples, end))


def ode_loss(
    student: VelocityFn,
    samples: Float[Array, "levels ..."],
    end: Float[Array, "..."],
    sigma: Float[Array, "levels"],
    which: Int[Array, "..."],
) -> Float[Array, "..."]:
    """The loss of each sample at one of the levels: the mean over the axes of `end` behind those of `which`.

    Args:
        student: carries gradient.
        samples: of the path at the levels `sigma`.
        end: of the path.
        sigma: the student's levels.
        which: the place in `sigma` for each sample.
    """
    at = which.reshape(1, *which.shape, *(1,) * (end.ndim - which.ndim))
    x = jnp.take_along_axis(samples, at, axis=0)[0]
    level = sigma[which]
    error = flow.x0_from_velocity(x, student(x, level), level) - end
    return jnp.mean(jnp.square(error), axis=tuple(range(which.ndim, end.ndim)))


@dataclasses.dataclass(frozen=True)
class OdeRegression(Distillation):
    """The loss over all that teacher forcing draws, one of the student's levels each."""

    def loss(
        self, params: Any, average: Any, teacher: Any, clip: Clip, key: AnyKey
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The mean over chunks, and those of single latents with their weights; `average` is not used."""
        levels, places = self.levels, np.array(self.places)
        loss, metrics = jnp.zeros(()), {}
        for name, weight, drawn, part_key in self.parts(clip, key):
            noise = normal(purpose_key(part_key, "noise"), drawn.latents.shape)
            path, end = teacher_path(
                drawn.teacher(jax.lax.stop_gradient(teacher)), noise, levels, drawn.lead
            )
            shape = drawn.latents.shape[: drawn.lead]
            which = randint(purpose_key(part_key, "level"), shape, 0, len(places))
            losses = ode_loss(
                drawn.student(params), path[places], end, jnp.asarray(levels[places]), which
            )
            metrics[name] = losses.mean()
            loss += weight * metrics[name]
        return loss, metrics
