"""Report of `python -m bvjax plan`: memory, work, collectives and lower bounds of the time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from bvjax.chips import Chip
from bvjax.config import ModelConfig
from bvjax.placement import check_layout, choose_mesh, mesh_error
from bvjax.plan import costs, program, text
from bvjax.plan.limits import compile_all, least_seconds, mesh_option, usable_bytes
from bvjax.plan.program import Program
from bvjax.sharding import AXES, make_layout


@dataclasses.dataclass(frozen=True)
class Plan:
    """Costs of one configuration; bytes are of one device."""

    topology: str
    chip: Chip
    mesh: dict[str, int]
    minutes: float
    chunks: int
    fits: bool
    needed: int | None  # None: the compiler gave up before it knew
    parts: dict[str, int]  # see `costs.memory_parts`, and temporaries: what is left
    programs: tuple[Program, ...]
    problem: str  # the compiler's own words, where it refused
    remedies: tuple[str, ...]
    flops: dict[str, int]  # of a chunk
    traffic: dict[str, int]  # of a chunk: bytes read and written
    padding: float | None  # of attention's logits
    seconds: dict[str, float]  # of a chunk, by what bounds it
    dense_history: int  # of the whole video on all devices together
    recache: dict[
        str, int
    ]  # entries encoded again at a new caption, and FLOPs of that; {}: none are

    @property
    def roofline(self) -> float:
        """Seconds of a chunk if all that can overlap does."""
        return max(self.seconds.values())


def make_plan(
    model: ModelConfig,
    topology: str,
    chip: Chip,
    devices: list[jax.Device],
    sizes: dict[str, int] | None,
    minutes: float,
    say: Callable[[str], object],
    decode: bool = False,
) -> Plan:
    """Compiles the programs of a chunk, that of the VAE with `decode`, and works out the rest.

    Raises:
      UserError: the mesh does not fit the model or the devices.
    """
    sizes = sizes or choose_mesh(model, len(devices)) or dict(data=len(devices))
    layout = make_layout(sizes, devices)
    check_layout(model, layout)
    chunks = math.ceil(minutes * 60 * model.chunk.fps / model.chunk.frames)
    arguments = program.inputs(model, layout)
    parts = costs.memory_parts(model, layout, arguments)
    resident = sum(parts[name] for name in ("weights", "bank", "vae"))
    compile_programs = lambda: program.compile_generation(model, layout, say, decode)
    programs, needed, problem = compile_all(compile_programs, resident)
    if needed is not None:
        parts["temporaries"] = max(needed - sum(parts.values()), 0)
    available = usable_bytes(chip)
    fits = not problem and needed is not None and needed <= available
    work, traffic = costs.chunk_flops(model), costs.traffic(model, layout, parts)
    return Plan(
        topology=topology, chip=chip, mesh=dict(layout.mesh.shape), minutes=minutes, chunks=chunks,
        fits=fits, needed=needed, parts=parts, programs=programs, problem=problem,
        remedies=() if fits else tuple(remedies(model, sizes, parts, available)),
        flops=dict(work), traffic=traffic,
        padding=costs.attention_padding(model, layout, chip.name),
        seconds=least_seconds(layout, chip, programs, work.total(), sum(traffic.values())),
        dense_history=costs.dense_history(model, minutes), recache=costs.recache(model, work),
    )  # fmt: skip


def remedies(
    model: ModelConfig, sizes: dict[str, int], parts: dict[str, int], available: float
) -> list[str]:
    """Single changes after which the parts would fit, by arithmetic, the mildest first."""
    full = {axis: sizes.get(axis, 1) for axis in AXES}

    def total(**factors: float) -> float:
        return sum(size * factors.get(part, 1.0) for part, size in parts.items())

    changes = []
    wide = model.memory.dtype or model.dit.dtype
    if wide in ("bfloat16", "float32"):
        scales = 4 / (model.dit.head_dim * (2 if wide == "bfloat16" else 4))
        small = (0.5 if wide == "bfloat16" else 0.25) + scales
        if total(bank=small) <= available:
            changes.append("--set memory.dtype=int8")
    if model.memory.offload == "none" and total(bank=0.0) <= available:
        changes.append("--set memory.offload=host")
    for factor in (2, 4, 8, 16):
        for axis in ("context", "fsdp", "tensor"):
            more = full | {axis: full[axis] * factor}
            share = 1 / factor
            shares = dict.fromkeys(("bank", "context", "activations", "temporaries"), share)
            shares |= dict(weights=share) if axis != "context" else {}
            shares |= dict(gathered=share) if axis == "tensor" else {}
            if mesh_error(model, more) is None and total(**shares) <= available:
                changes.append(mesh_option(more))
        if total(bank=1 / factor, context=1 / factor, gathered=1 / factor) <= available:
            changes.append(f"--set memory.capacity={model.memory.capacity // factor}")
        if changes:
            break
    return changes


def lines(plan: Plan) -> list[str]:
    """The report as a person reads it."""
    result = [text.title(plan), *text.memory(plan, 12)]
    result += ["", "work of one chunk (matmuls and convolutions):"]
    result += text.work_columns(plan.flops, 18, 15)
    if plan.recache:
        result.append(
            f"  before a chunk whose caption is another, up to {plan.recache['entries']} entries are encoded again: "
            f"{text.in_flop(plan.recache['flops'])} more, "
            f"{plan.recache['flops'] / sum(plan.flops.values()):.1%} of a chunk"
        )
    if plan.padding is not None:
        result.append(f"  attention's blocks add {plan.padding:.1%} to its logits")
    result += ["", "memory that one device reads and writes for a chunk, at least:"]
    result += text.columns(plan.traffic, 12, 12)
    if plan.programs:
        result += ["", "collectives of one chunk, received by one device:"]
        for each in plan.programs:
            result += [f"  {each.name}: {line}" for line in text.collectives(each)]
    *times, bound = text.least_times(plan, "chunk")
    whole = text.in_seconds(plan.chunks * plan.roofline)
    return [
        *result,
        *times,
        f"{bound}{whole} for {plan.minutes:g} minute(s) ({plan.chunks} chunks)",
        "",
        "all of that video's keys and values, kept whole, would be "
        f"{text.in_bytes(plan.dense_history)} over all devices; the bank is "
        f"{text.in_bytes(plan.parts['bank'])} on each and does not grow",
        text.peaks(plan.chip),
    ]


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as numbers."""
    return dataclasses.asdict(plan) | {"roofline": plan.roofline}
