"""Memory of a step of stage 2, Self Forcing: the program that trains, with all players resident, compiled ahead."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bvjax.chips import Chip
from bvjax.config import GuidanceConfig, ModelConfig, SamplerConfig
from bvjax.losses.adversarial import PUBLISHED, AdversarialConfig
from bvjax.losses.critic_levels import CriticLevelsConfig
from bvjax.losses.self_forcing import SelfForcing, SelfForcingConfig
from bvjax.losses.teacher_forcing import ForcingConfig
from bvjax.nets.discriminator import DiscriminatorConfig, default_taps
from bvjax.plan import text
from bvjax.plan.limits import compile_all, usable_bytes
from bvjax.plan.program import Program, compile_program, sharded_bytes
from bvjax.plan.training import (
    STEPS,
    Batch,
    batch_shapes,
    make_objective,
    sizes_of_work,
    with_remat,
)
from bvjax.plan.training_report import choose_mesh
from bvjax.sharding import Layout, make_layout
from bvjax.train.config import OneModelConfig
from bvjax.train.mesh import check_fits
from bvjax.train.optimizer import OptimizerConfig
from bvjax.train.self_forcing_task import SelfForcingState, SelfForcingTask
from bvjax.train.step import compile_step as jitted_step
from bvjax.train.task import shapes_of


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The sections of a config of stage 2 that change what a step needs."""

    settings: SelfForcingConfig
    adversarial: AdversarialConfig
    levels: CriticLevelsConfig
    critic: DiscriminatorConfig
    forcing: ForcingConfig


@dataclasses.dataclass(frozen=True)
class SelfForcingPlan:
    """Memory of a step; bytes are of one device."""

    topology: str
    chip: Chip
    mesh: dict[str, int]
    videos: int  # of a step, and rollouts that live on
    chunks: int  # of a video
    window: int
    critic_updates: int
    objective: str
    fits: bool
    needed: int | None  # None: the compiler gave up before it knew
    parts: dict[str, int]
    programs: tuple[Program, ...]  # one, or none where the compiler refused
    problem: str  # the compiler's own words, where it refused
    remedies: tuple[str, ...] = ()
    seconds: dict[str, float] = dataclasses.field(
        default_factory=dict
    )  # not known: rollouts differ

    @property
    def share(self) -> float | None:
        """Share of the memory that is needed."""
        return None if self.needed is None else self.needed / self.chip.memory


def default_recipe(model: ModelConfig, chunks: int, targets: int) -> Recipe:
    """That of `experiments/configs/blockvid_stage2.py` for a network of any depth."""
    return Recipe(
        settings=SelfForcingConfig(window=min(3, chunks)),
        adversarial=PUBLISHED["self-forcing-paper"],
        levels=CriticLevelsConfig(),
        critic=DiscriminatorConfig(taps=default_taps(model.dit.num_layers)),
        forcing=ForcingConfig(drawn_targets=targets),
    )


def few_step(model: ModelConfig) -> ModelConfig:
    """The model as stage 2 trains it: four steps without guidance, layers recomputed in the backward pass."""
    if model.sampler.kind != "few_step":
        sampler = SamplerConfig(kind="few_step", steps=4, shift=model.sampler.shift)
        model = dataclasses.replace(model, sampler=sampler, guidance=GuidanceConfig(scale=1.0))
    return with_remat(model)


def make_plan(
    model: ModelConfig,
    topology: str,
    chip: Chip,
    devices: list[jax.Device],
    sizes: dict[str, int] | None,
    minutes: float,
    batch: int | None,
    say: Callable[[str], object],
    targets: int = 0,
    recipe: Recipe | None = None,
) -> SelfForcingPlan:
    """Compiles the step: all updates of the critics and the generator's, with the state of all of them.

    Args:
        minutes: of each video, rounded up to whole chunks.
        batch: videos of a step, which are rollouts too; None: one for each replica of the model, that is for each
            index of the axis `data`; with more of them gradients are accumulated and rollouts take turns.
        targets: chunks of a video that Block Forcing draws and denoises; 0: all of them, as often as by default.
        recipe: None: `default_recipe`; with one `targets` is not read.

    Raises:
        UserError: the mesh does not fit the model, the devices or the batch, or the model is none that rolls
            itself out.
    """
    model = few_step(model)
    sizes = sizes or choose_mesh(model, len(devices), rollouts=True)
    layout = make_layout(sizes, devices)
    check_fits(model, layout, rollouts=True)
    videos, chunks = sizes_of_work(model, layout, batch, minutes, targets)
    recipe = recipe or default_recipe(model, chunks, targets)
    task = make_task(model, layout, recipe, videos, chunks)
    state, batch_of = shapes_of(task), batch_shapes(model, layout, videos, chunks)
    parts = memory_parts(state, batch_of)

    def compile_programs() -> list[Program]:
        say("compiling the step of stage 2")
        step = jitted_step(task, state).lower(state, batch_of)
        return [compile_program("stage 2 step", step, layout)]

    programs, needed, problem = compile_all(compile_programs, sum(parts.values()))
    if needed is not None:
        parts["temporaries"] = max(needed - sum(parts.values()), 0)
    fits = not problem and needed is not None and needed <= usable_bytes(chip)
    return SelfForcingPlan(
        topology=topology, chip=chip, mesh=dict(layout.mesh.shape), videos=videos, chunks=chunks,
        window=recipe.settings.window, critic_updates=task.critic_updates,
        objective=recipe.settings.objective, fits=fits, needed=needed, parts=parts,
        programs=programs, problem=problem,
    )  # fmt: skip


def make_task(
    model: ModelConfig, layout: Layout, recipe: Recipe, videos: int, chunks: int
) -> SelfForcingTask:
    """The task, one example at a time in each replica of the model; its stories are none."""
    objective = dataclasses.replace(
        make_objective(model, layout),
        forcing=recipe.forcing,
        stage="stage2",
        heldout={
            name: np.broadcast_to(np.float32(0), (1, *shape.shape[1:]))
            for name, shape in batch_shapes(model, layout, 1, chunks).items()
        },
    )
    judge = SelfForcing(
        model=model,
        config=recipe.settings,
        adversarial=recipe.adversarial,
        levels=recipe.levels,
        critic=recipe.critic,
        null_text=objective.null_text,
        layout=layout,
    )
    config = OneModelConfig(steps=STEPS, global_batch_size=videos, device_batch_size=1)
    optimizer = OptimizerConfig()
    return SelfForcingTask(objective, judge, optimizer, optimizer, config, layout)


def memory_parts(state: SelfForcingState, batch: Batch) -> dict[str, int]:
    """Bytes on one device of the state and a batch: what is there before the step and after it."""
    parts = dict(
        generator=sharded_bytes(state.generator.params),
        average=sharded_bytes(state.ema),
        optimizer=sharded_bytes(state.generator.opt_state),
    )
    for name, player in state.critics.items():
        parts[name.replace("_", " ")] = sharded_bytes(player.params)
        parts[f"{name.replace('_', ' ')}'s optimizer"] = sharded_bytes(player.opt_state)
    if state.teacher is not None:
        parts["teacher"] = sharded_bytes(state.teacher)
    if state.live is not None:
        parts["rollouts"] = sharded_bytes(state.live)
    return parts | {"batch": sharded_bytes(batch)}


def lines(plan: SelfForcingPlan) -> list[str]:
    """The report as a person reads it."""
    seconds = f"{plan.videos} video(s) of {plan.chunks} chunks"
    return [
        text.title(plan),
        f"a step of stage 2: {seconds}, {plan.mesh['data']} at once, windows of {plan.window} chunk(s); "
        f"{plan.critic_updates} update(s) of the critics ({plan.objective}) and one of the generator",
        "assumed: AdamW, float32 weights, moments and moving average",
        *text.memory(plan, 26),
        "",
        "collectives of one step, received by one device, one chunk of each rollout counted:",
        *(f"  {line}" for each in plan.programs for line in text.collectives(each)),
    ]


def as_json(plan: SelfForcingPlan) -> dict[str, Any]:
    """The plan as numbers."""
    return dataclasses.asdict(plan) | {"share": plan.share}
