"""What `python -m bvjax plan --phase train` says: memory, work, exchanges and time of a step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.placement import training_misfit
from bvjax.plan import training, training_costs
from bvjax.plan.chips import Chip
from bvjax.plan.program import Program, TooLarge
from bvjax.plan.report import (
    excerpt,
    exchanges,
    in_bytes,
    in_flop,
    in_seconds,
    least_seconds,
    room_of,
)
from bvjax.sharding import AXES, make_layout
from bvjax.train.mesh import check_fits


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """All figures of a step; bytes are of one device."""

    topology: str
    chip: Chip
    mesh: dict[str, int]
    videos: int  # of a step
    chunks: int  # of a video
    seconds_of_video: float  # of one of them
    rounds: int  # times each chunk is denoised
    remat: str
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


def make_plan(
    model: ModelConfig,
    topology: str,
    chip: Chip,
    devices: list[jax.Device],
    sizes: dict[str, int] | None,
    minutes: float,
    batch: int | None,
    say: Callable[[str], object],
) -> TrainingPlan:
    """Compiles the step and works out the rest.

    Args:
      minutes: of each video, rounded up to whole chunks.
      batch: videos of a step; None: one for each device along `data`.

    Raises:
      UserError: the mesh does not fit the model, the devices or the batch, or the model is none
        that training can cut a video for.
    """
    sizes = sizes or choose_mesh(model, len(devices))
    layout = make_layout(sizes, devices)
    check_fits(model, layout)
    data = layout.size("data")
    videos = data if batch is None else batch
    if videos < 1 or videos % data:
        raise UserError(f"`batch` is {videos}; it must be a multiple of data={data}")
    if model.dit.remat == "none":
        model = dataclasses.replace(model, dit=dataclasses.replace(model.dit, remat="full"))
    chunks = math.ceil(minutes * 60 * model.chunk.fps / model.chunk.frames)
    objective = training.make_objective(model, layout)
    state, batch = training.inputs(objective, videos, chunks)
    parts = training_costs.memory_parts(objective, state, batch)
    work = training_costs.step_flops(
        objective, videos, chunks
    )  # traces the loss, which refuses what it cannot train
    stays = sum(parts[name] for name in ("weights", "average", "optimizer", "batch"))
    problem, programs = "", ()
    try:
        programs = (training.compile_step(objective, state, batch, say),)
        needed = stays + programs[0].temporaries + programs[0].outputs
    except TooLarge as error:
        needed, problem = error.needed, f"{error.name}: {error.message}"
    if needed is not None:
        parts["temporaries"] = max(needed - sum(parts.values()), 0)
    room = room_of(chip)
    fits = not problem and needed <= room
    moved = training_costs.traffic(model, layout, parts)
    return TrainingPlan(
        topology=topology, chip=chip, mesh=dict(layout.mesh.shape), videos=videos, chunks=chunks,
        seconds_of_video=chunks * model.chunk.frames / model.chunk.fps,
        rounds=objective.forcing.rounds, remat=model.dit.remat, fits=fits, needed=needed, parts=parts,
        programs=programs, problem=problem,
        remedies=() if fits else tuple(remedies(model, sizes, parts, room, chunks)),
        flops=dict(work), traffic=moved,
        seconds=least_seconds(layout, chip, programs, work.total(), sum(moved.values())),
    )  # fmt: skip


def choose_mesh(model: ModelConfig, count: int) -> dict[str, int]:
    """As many devices as tokens divide by over `fsdp`, the rest over `data`."""
    fitting = (n for n in range(count, 0, -1) if count % n == 0)
    fsdp = next(n for n in fitting if training_misfit(model, dict(fsdp=n)) is None)
    return dict(data=count // fsdp, fsdp=fsdp)


def remedies(
    model: ModelConfig, sizes: dict[str, int], parts: dict[str, int], room: float, chunks: int
) -> list[str]:
    """Single changes after which the parts would fit, by arithmetic, the mildest first."""
    full = {axis: sizes.get(axis, 1) for axis in AXES}
    of_state = ("weights", "average", "optimizer", "gradients")
    of_tokens = ("context", "inputs", "temporaries")

    def total(factor: int, *cut: str) -> float:
        return sum(size / (factor if part in cut else 1) for part, size in parts.items())

    cuts = {
        "context": of_tokens,
        "fsdp": of_state + of_tokens,
        "tensor": (*of_state, "context", "temporaries"),
    }
    found = []
    if model.dit.remat != "full" and total(2, "temporaries") <= room:
        found.append("--set dit.remat=full")
    for factor in (2, 4, 8, 16):
        for axis, cut in cuts.items():
            more = full | {axis: full[axis] * factor}
            if training_misfit(model, more) is None and total(factor, *cut) <= room:
                mesh = ",".join(f"{a}={n}" for a, n in more.items() if n > 1)
                found.append(f"--mesh {mesh} ({math.prod(more.values())} devices)")
        if chunks >= factor and total(factor, *of_tokens, "batch") <= room:
            shorter = chunks // factor * model.chunk.frames / model.chunk.fps / 60
            found.append(f"--minutes {shorter:.3g} ({chunks // factor} chunks a video)")
        if found:
            break
    return found


def lines(plan: TrainingPlan) -> list[str]:
    """The report as a person reads it."""
    mesh = ", ".join(f"{axis}={n}" for axis, n in plan.mesh.items())
    devices = math.prod(plan.mesh.values())
    made = [
        f"{plan.topology}: {devices} x {plan.chip.name}, mesh {mesh}",
        f"a step: {plan.videos} video(s) of {plan.seconds_of_video:g} s ({plan.chunks} chunks), each "
        f"chunk encoded once and denoised {plan.rounds} times, all videos at once",
        f"assumed: AdamW, float32 weights with a moving average, dit.remat={plan.remat}, the "
        "default history and noise",
        "",
        f"memory of one device, of {in_bytes(plan.chip.memory)}:",
        *(f"  {part:<14}{in_bytes(size):>10}" for part, size in plan.parts.items()),
    ]
    for each in plan.programs:
        made.append(
            f"  {each.name}: arguments {in_bytes(each.arguments)}, temporaries "
            f"{in_bytes(each.temporaries)} (the largest {in_bytes(each.largest.bytes)}, "
            f"{each.largest.shape}), outputs {in_bytes(each.outputs)}"
        )
    verdict = "fits" if plan.fits else "does not fit"
    made.append(f"  {in_bytes(plan.needed)} at once: {verdict}" if plan.needed else f"  {verdict}")
    if plan.problem:
        made += ["  " + line for line in excerpt(plan.problem)]
    made += [f"  would fit: {remedy}" for remedy in plan.remedies]
    made += ["", "work of one step (products and convolutions), on all devices together:"]
    made += [f"  {part:<30}{in_flop(work):>17}" for part, work in plan.flops.items()]
    made += ["", "memory that one device reads and writes for a step, at least:"]
    made += [f"  {part:<14}{in_bytes(size):>12}" for part, size in plan.traffic.items()]
    made += ["", "exchanges of one step, received by one device:"]
    made += [f"  {line}" for each in plan.programs for line in exchanges(each)]
    made += ["", "time of one step cannot go below:"]
    made += [f"  {what:<12}{in_seconds(seconds):>12}" for what, seconds in plan.seconds.items()]
    bound = max(plan.seconds, key=plan.seconds.get)
    made += [
        f"  bound by {bound}: {in_seconds(plan.roofline)} a step, "
        f"{plan.videos * plan.seconds_of_video / plan.roofline:.3g} s of video a second",
        "",
        f"peaks of {plan.chip.name}: {plan.chip.flops / 1e12:.0f} TFLOP/s bfloat16, "
        f"{plan.chip.bandwidth / 1e9:.0f} GB/s memory, {plan.chip.link / 1e9:.0f} GB/s a mesh axis "
        f"({plan.chip.source})",
    ]
    return made


def as_json(plan: TrainingPlan) -> dict[str, Any]:
    """The plan as numbers."""
    return dataclasses.asdict(plan) | {"roofline": plan.roofline}
