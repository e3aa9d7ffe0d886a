"""Teacher, student and target on the same draws: what `consistency` and `ode_regression` have in common.

A few-step generator starts from the teacher-forced model.  What is drawn, histories, captions, chunks and single
latents, is that of teacher forcing (`TeacherForcing`), and each network encodes the clean history itself, as it will
when it generates.  The teacher is guided as its preset says, by captions and by the memory (`denoiser.guidance`), and
the student learns the guided velocity's way to clean latents: it needs no guidance of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bvjax.config import GuidanceConfig, ModelConfig, SamplerConfig
from bvjax.denoiser import guidance
from bvjax.diffusion import flow
from bvjax.diffusion.solvers import TRAIN_STEPS, sigmas
from bvjax.errors import UserError
from bvjax.losses.clip import Clip
from bvjax.losses.teacher_forcing import Singles, Targets, TeacherForcing
from bvjax.random import AnyKey, purpose_key

# (noisy latents, sigma of their leading axes) -> velocity.
VelocityFn = Callable[[Float[Array, "..."], Float[Array, "..."]], Float[Array, "..."]]


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """The levels between noise and data, and the guidance of the teacher, as in `GuidanceConfig`."""

    levels: int = 48  # steps of the teacher from noise to data
    guidance: float = 3.0  # scale by captions: v_null + guidance (v - v_null)
    memory_guidance: float = 0.0  # scale in chunks that retrieved something; 0 = `guidance`

    def __post_init__(self):
        if not 2 <= self.levels <= TRAIN_STEPS:
            raise UserError(
                f"the teacher's levels are {self.levels}; they must be 2 to {TRAIN_STEPS}"
            )
        if not self.guidance > 0.0 or not self.memory_guidance >= 0.0:
            raise UserError(
                f"the teacher's guidance is {self.guidance} and its memory_guidance "
                f"{self.memory_guidance}; the first must be above 0, the second 0 (off) or more"
            )

    def guided(self, model: ModelConfig) -> ModelConfig:
        """The model as the teacher denoises: `model` with the teacher's guidance."""
        section = GuidanceConfig(scale=float(self.guidance), memory=float(self.memory_guidance))
        return dataclasses.replace(model, guidance=section)


def teacher_levels(levels: int, shift: float) -> Float[np.ndarray, "levels"]:
    """`levels` + 1 levels from 1 to 0, equal steps shifted by `shift`."""
    return np.asarray(flow.shift_sigma(np.linspace(1.0, 0.0, levels + 1), shift), np.float32)


def student_places(sampler: SamplerConfig, levels: int) -> tuple[int, ...]:
    """The places among `teacher_levels` of the levels that the student's sampler visits.

    Raises:
        UserError: the sampler is not few_step, or visits levels between the teacher's.
    """
    if sampler.kind != "few_step":
        raise UserError(
            f"sampler.kind is {sampler.kind!r}; a few-step generator is distilled for few_step"
        )
    sigmas(sampler)  # checks the list
    places = [(TRAIN_STEPS - t) * levels / TRAIN_STEPS for t in sampler.few_step]
    if any(place % 1 for place in places):
        raise UserError(
            f"sampler.few_step is {sampler.few_step}; the teacher's {levels} levels must hold all of these: "
            f"each must be a multiple of {TRAIN_STEPS}/{levels}"
        )
    return tuple(int(place) for place in places)


def check_student(model: ModelConfig) -> None:
    """Raises `UserError` for a student with guidance of its own: its samples would be guided twice."""
    if model.guidance.guided:
        raise UserError(
            f"guidance.scale is {model.guidance.scale:g} and guidance.memory {model.guidance.memory:g}; a student "
            "that learns from a guided teacher must have scale 1 and memory 0"
        )


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Clean latents with the velocities of a student and of the guided teacher, each of parameters.

    `lead` is how many leading axes of the latents say which they are; a level has these axes.
    """

    latents: Float[Array, "..."]
    lead: int
    student: Callable[[Any], VelocityFn]
    teacher: Callable[[Any], VelocityFn]


@dataclasses.dataclass(frozen=True)
class Distillation:
    """The draws of `forcing`, with velocities; `forcing.model` is the student's."""

    forcing: TeacherForcing
    config: TeacherConfig

    def __post_init__(self):
        """Raises `UserError` as `student_places` and `check_student`."""
        check_student(self.forcing.model)
        student_places(self.forcing.model.sampler, self.config.levels)

    @property
    def levels(self) -> Float[np.ndarray, "levels"]:
        """The teacher's levels, shifted as the student's sampler is."""
        return teacher_levels(self.config.levels, self.forcing.model.sampler.shift)

    @property
    def places(self) -> tuple[int, ...]:
        """The student's levels among them."""
        return student_places(self.forcing.model.sampler, self.config.levels)

    def parts(self, clip: Clip, key: AnyKey) -> Iterator[tuple[str, float, Drawn, AnyKey]]:
        """Each part of the loss: its name, its weight, what is drawn, and a key of its own."""
        forcing = self.forcing.forcing
        if forcing.targets_per_chunk:
            yield "chunks", 1.0, self._chunks(clip, key), key
        of_anchor, of_frames = purpose_key(key, "anchor target"), purpose_key(key, "frames")
        singles = self.forcing.draw_anchor(clip, of_anchor)
        yield "anchor", forcing.anchor_weight, self._alone(singles), of_anchor
        if forcing.frames:
            singles = self.forcing.draw_frames(clip, of_frames)
            yield "frames", forcing.frames_weight, self._alone(singles), of_frames

    def _chunks(self, clip: Clip, key: AnyKey) -> Drawn:
        """Chunks with their histories, which each network encodes by itself."""
        forcing, guided = self.forcing, self.config.guided(self.forcing.model)
        targets: Targets = forcing.draw_targets(clip, key)
        valid, null_text = targets.history.valid, self._null(targets.text)

        def with_history(params, entries, text, sees=None):
            context, start = forcing.context(entries, targets, sees)
            return lambda x, sigma: forcing.forward.velocity(params, x, sigma, text, context, start)

        def student(params):
            entries = forcing.entries(params, clip, targets, key)
            return with_history(params, entries, targets.text)

        def teacher(params):
            entries = forcing.entries(params, clip, targets, key)
            null_sees = guidance.null_sees(guided, valid)
            return guidance.guide(
                with_history(params, entries, targets.text),
                with_history(params, entries, null_text, null_sees),
                guidance.guidance_scale(guided, valid),
            )

        return Drawn(targets.latents, 2, student, teacher)

    def _alone(self, singles: Singles) -> Drawn:
        """Single latents without history."""

        def velocity(params, text):
            return lambda x, sigma: self.forcing.singles_velocity(params, x, sigma, text)

        def teacher(params):
            null = velocity(params, self._null(singles.text))
            return guidance.guide(velocity(params, singles.text), null, float(self.config.guidance))

        return Drawn(singles.latents, 3, lambda params: velocity(params, singles.text), teacher)

    def _null(self, text):
        null = jnp.asarray(self.forcing.null_text[: text.shape[2]], text.dtype)
        return jnp.broadcast_to(null, text.shape)
