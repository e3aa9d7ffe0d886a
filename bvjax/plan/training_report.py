"""Report of `python -m bvjax plan --phase train`: memory, work, collectives and time of a step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from bvjax.chips import Chip
from bvjax.config import ModelConfig
from bvjax.losses.teacher_forcing import ForcingConfig
from bvjax.placement import training_mesh_error
from bvjax.plan import text, training, training_costs
from bvjax.plan.limits import compile_all, least_seconds, mesh_option, usable_bytes
from bvjax.plan.program import Program
from bvjax.sharding import AXES, make_layout
from bvjax.train.lora import LoraConfig
from bvjax.train.mesh import check_fits


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """Costs of a step; bytes are of one device."""

    topology: str
    chip: Chip
    mesh: dict[str, int]
    videos: int  # of a step
    at_once: int  # of them; the gradients of the others are accumulated
    chunks: int  # of a video
    seconds_of_video: float  # of one of them
    targets: int  # chunks of a video that are denoised, some perhaps twice
    encoded: int  # chunks of a video that are encoded as entries
    remat: str
    lora: LoraConfig | None  # None: the whole DiT is trained
    fits: bool
    needed: int | None  # None: the compiler gave up before it knew
    parts: dict[str, int]
    programs: tuple[Program, ...]  # one, or none where the compiler refused
    problem: str  # the compiler's own words, where it refused
    remedies: tuple[str, ...]
    flops: dict[str, int]  # of a step, on all devices together
    traffic: dict[str, int]  # bytes read and written, at least
    seconds: dict[str, float]  # of a step, by what bounds it

    @property
    def roofline(self) -> float:
        """Seconds of a step if all that can overlap does."""
        return max(self.seconds.values())

    @property
    def utilisation(self) -> float:
        """The share of the peak that the roofline allows (MFU): what is computed a second time does not count."""
        once = sum(work for part, work in self.flops.items() if not part.endswith("recomputed"))
        return once / (self.roofline * math.prod(self.mesh.values()) * self.chip.flops)


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
    forcing: ForcingConfig | None = None,
    lora: LoraConfig | None = None,
) -> TrainingPlan:
    """Compiles the step and works out the rest.

    Args:
      minutes: of each video, rounded up to whole chunks.
      batch: videos of a step; None: one for each device of the axis `data`, which is how many go through
        the network at once.
      targets: chunks of a video that are drawn and denoised; 0: all of them, as often as by default.
      forcing: the whole training draw, in place of the default one with so many targets.
      lora: what is trained is a LoRA, and the DiT stays as it is.

    Raises:
      UserError: the mesh does not fit the model, the devices or the batch, or the model is none
        that training can cut a video for.
    """
    sizes = sizes or choose_mesh(model, len(devices))
    layout = make_layout(sizes, devices)
    check_fits(model, layout)
    videos, chunks = training.sizes_of_work(model, layout, batch, minutes, targets)
    model = training.with_remat(model)
    objective = training.make_objective(model, layout, targets)
    if forcing is not None:
        objective, targets = dataclasses.replace(objective, forcing=forcing), forcing.drawn_targets
    state, batch = training.inputs(objective, videos, chunks, lora)
    parts = training_costs.memory_parts(objective, state, batch)
    work = training_costs.step_flops(
        objective, videos, chunks, lora
    )  # traces the loss, which refuses what it cannot train
    resident = sum(parts[name] for name in ("weights", "average", "optimizer", "batch"))
    compile_programs = lambda: [training.compile_step(objective, state, batch, say, lora)]
    programs, needed, problem = compile_all(compile_programs, resident)
    if needed is not None:
        parts["temporaries"] = max(needed - sum(parts.values()), 0)
    available = usable_bytes(chip)
    fits = not problem and needed is not None and needed <= available
    traffic = training_costs.traffic(objective, parts, videos, chunks)
    denoised, encoded = training_costs.counts(objective, chunks)
    return TrainingPlan(
        topology=topology, chip=chip, mesh=dict(layout.mesh.shape), videos=videos, at_once=layout.size("data"),
        chunks=chunks, targets=denoised, encoded=encoded,
        seconds_of_video=chunks * model.chunk.frames / model.chunk.fps,
        remat=model.dit.remat, lora=lora, fits=fits, needed=needed, parts=parts,
        programs=programs, problem=problem,
        remedies=() if fits else tuple(remedies(model, sizes, parts, available, chunks, targets)),
        flops=dict(work), traffic=traffic,
        seconds=least_seconds(layout, chip, programs, work.total(), sum(traffic.values())),
    )  # fmt: skip


def choose_mesh(model: ModelConfig, count: int, rollouts: bool = False) -> dict[str, int]:
    """Sizes of a mesh: as many devices as tokens divide by over `fsdp`, the rest over `data`."""
    fitting = (n for n in range(count, 0, -1) if count % n == 0)
    fsdp = next(n for n in fitting if training_mesh_error(model, dict(fsdp=n), rollouts) is None)
    return dict(data=count // fsdp, fsdp=fsdp)


def remedies(
    model: ModelConfig,
    sizes: dict[str, int],
    parts: dict[str, int],
    available: float,
    chunks: int,
    targets: int = 0,
) -> list[str]:
    """Single changes after which the parts would fit, by arithmetic, the mildest first."""
    full = {axis: sizes.get(axis, 1) for axis in AXES}
    of_state = ("weights", "merged", "average", "optimizer", "gradients")
    of_tokens = ("entries", "inputs", "temporaries")

    def total(factor: int, *sharded: str) -> float:
        return sum(size / (factor if part in sharded else 1) for part, size in parts.items())

    sharded_parts = {
        "context": of_tokens,
        "fsdp": of_state + of_tokens,
        "tensor": (*of_state, "entries", "temporaries"),
    }
    changes = []
    if model.dit.remat != "full" and total(2, "temporaries") <= available:
        changes.append("--set dit.remat=full")
    fewer = targets or 2 * chunks
    if fewer > 1 and total(fewer, *of_tokens) <= available:
        changes.append("--targets 1")
    for factor in (2, 4, 8, 16):
        for axis, sharded in sharded_parts.items():
            more = full | {axis: full[axis] * factor}
            if training_mesh_error(model, more) is None and total(factor, *sharded) <= available:
                changes.append(mesh_option(more))
        if chunks >= factor and total(factor, *of_tokens, "batch") <= available:
            shorter = chunks // factor * model.chunk.frames / model.chunk.fps / 60
            changes.append(f"--minutes {shorter:.3g} ({chunks // factor} chunks a video)")
        if changes:
            break
    return changes


def lines(plan: TrainingPlan) -> list[str]:
    """The report as a person reads it."""
    result = [
        text.title(plan),
        f"a step: {plan.videos} video(s) of {plan.seconds_of_video:g} s ({plan.chunks} chunks), {plan.at_once} at "
        f"once; of each {plan.encoded} chunk(s) encoded and {plan.targets} target(s) denoised",
        *(
            []
            if plan.lora is None
            else [f"a LoRA of rank {plan.lora.rank} is trained (lora.targets: {plan.lora.targets})"]
        ),
        f"assumed: AdamW, float32 weights with a moving average, dit.remat={plan.remat}, the "
        "default history and noise",
        *text.memory(plan, 14),
    ]
    result += ["", "work of one step (matmuls and convolutions), on all devices together:"]
    result += text.work_columns(plan.flops, 30, 17)
    result += ["", "memory that one device reads and writes for a step, at least:"]
    result += text.columns(plan.traffic, 14, 12)
    result += ["", "collectives of one step, received by one device:"]
    result += [f"  {line}" for each in plan.programs for line in text.collectives(each)]
    *times, bound = text.least_times(plan, "step")
    rate = plan.videos * plan.seconds_of_video / plan.roofline
    bound += f"{rate:.3g} s of video a second"
    utilised = f"  of the peak at most {plan.utilisation:.0%} then (MFU: nothing counted that is computed twice)"
    return [*result, *times, bound, utilised, "", text.peaks(plan.chip)]


def as_json(plan: TrainingPlan) -> dict[str, Any]:
    """The plan as numbers."""
    return dataclasses.asdict(plan) | {"roofline": plan.roofline, "utilisation": plan.utilisation}
