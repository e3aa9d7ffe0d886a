"""What `python -m bvjax plan` says: memory, work, exchanges and the time they cannot go below."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from bvjax.config import ModelConfig
from bvjax.placement import choose_mesh, misfit
from bvjax.plan import costs, program
from bvjax.plan.chips import Chip
from bvjax.plan.program import Program, TooLarge
from bvjax.sharding import AXES, Layout, make_layout

# What drivers and libraries keep: of a GPU's memory, and on a TPU (15.75 of a v5e's 16 GiB are free).
RESERVED_SHARE, RESERVED = 0.04, 2**28


@dataclasses.dataclass(frozen=True)
class Plan:
    """All figures of one configuration; bytes are of one device."""

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
    from bvjax.placement import check_layout

    sizes = sizes or choose_mesh(model, len(devices)) or dict(data=len(devices))
    layout = make_layout(sizes, devices)
    check_layout(model, layout)
    chunks = math.ceil(minutes * 60 * model.chunk.fps / model.chunk.frames)
    given = program.inputs(model, layout)
    parts = costs.memory_parts(model, layout, given)
    stays = sum(parts[name] for name in ("weights", "bank", "vae"))
    problem, programs = "", ()
    try:
        programs = tuple(program.compile_generation(model, layout, say, decode))
        needed = stays + max(p.temporaries + p.outputs for p in programs)
    except TooLarge as error:
        needed = error.needed
        problem = f"{error.name}: {error.message}"
    if needed is not None:
        parts["temporaries"] = max(needed - sum(parts.values()), 0)
    room = room_of(chip)
    fits = not problem and needed <= room
    work, traffic = costs.chunk_flops(model), costs.traffic(model, layout, parts)
    return Plan(
        topology=topology, chip=chip, mesh=dict(layout.mesh.shape), minutes=minutes, chunks=chunks,
        fits=fits, needed=needed, parts=parts, programs=programs, problem=problem,
        remedies=() if fits else tuple(remedies(model, sizes, parts, room)),
        flops=dict(work), traffic=traffic,
        padding=costs.attention_padding(model, layout, chip.name),
        seconds=least_seconds(layout, chip, programs, work.total(), sum(traffic.values())),
        dense_history=costs.dense_history(model, minutes),
    )  # fmt: skip


def room_of(chip: Chip) -> float:
    """Bytes of a chip's memory that a program can have."""
    return chip.memory - (RESERVED_SHARE * chip.memory if chip.name.startswith("h") else RESERVED)


def least_seconds(layout: Layout, chip: Chip, programs, work: int, moved: int) -> dict[str, float]:
    """Lower bounds of the time of a chunk or step: products, memory and links of one device."""
    received = 0.0
    for each in (c for p in programs for c in p.collectives):
        group = math.prod(layout.size(axis) for axis in each.axes if axis in AXES)
        share = {"all-reduce": 2, "reduce-scatter": group}.get(each.kind, 1)
        received += share * each.received * (group - 1) / group
    return {
        "products": work / (layout.mesh.size * chip.flops),
        "memory": moved / chip.bandwidth,
        "links": received / chip.link,
    }


def remedies(
    model: ModelConfig, sizes: dict[str, int], parts: dict[str, int], room: float
) -> list[str]:
    """Single changes after which the parts would fit, by arithmetic, the mildest first."""
    full = {axis: sizes.get(axis, 1) for axis in AXES}

    def total(**factors: float) -> float:
        return sum(size * factors.get(part, 1.0) for part, size in parts.items())

    found = []
    wide = model.memory.dtype or model.dit.dtype
    if wide in ("bfloat16", "float32"):
        scales = 4 / (model.dit.head_dim * (2 if wide == "bfloat16" else 4))
        small = (0.5 if wide == "bfloat16" else 0.25) + scales
        if total(bank=small) <= room:
            found.append("--set memory.dtype=int8")
    if model.memory.place == "device" and total(bank=0.0) <= room:
        found.append("--set memory.place=host")
    for factor in (2, 4, 8, 16):
        for axis in ("context", "fsdp", "tensor"):
            more = full | {axis: full[axis] * factor}
            cut = 1 / factor
            shares = dict.fromkeys(("bank", "context", "activations", "temporaries"), cut)
            shares |= dict(weights=cut) if axis != "context" else {}
            shares |= dict(gathered=cut) if axis == "tensor" else {}
            if misfit(model, more) is None and total(**shares) <= room:
                mesh = ",".join(f"{a}={n}" for a, n in more.items() if n > 1)
                found.append(f"--mesh {mesh} ({math.prod(more.values())} devices)")
        if total(bank=1 / factor, context=1 / factor, gathered=1 / factor) <= room:
            found.append(f"--set memory.capacity={model.memory.capacity // factor}")
        if found:
            break
    return found


def lines(plan: Plan) -> list[str]:
    """The report as a person reads it."""
    mesh = ", ".join(f"{axis}={n}" for axis, n in plan.mesh.items())
    devices = math.prod(plan.mesh.values())
    made = [
        f"{plan.topology}: {devices} x {plan.chip.name}, mesh {mesh}",
        "",
        f"memory of one device, of {in_bytes(plan.chip.memory)}:",
        *(f"  {part:<12}{in_bytes(size):>10}" for part, size in plan.parts.items()),
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
    made += ["", "work of one chunk (products and convolutions):"]
    made += [f"  {part:<18}{in_flop(work):>15}" for part, work in plan.flops.items()]
    if plan.padding is not None:
        made.append(f"  attention's blocks add {plan.padding:.1%} to its logits")
    made += ["", "memory that one device reads and writes for a chunk, at least:"]
    made += [f"  {part:<12}{in_bytes(size):>12}" for part, size in plan.traffic.items()]
    if plan.programs:
        made += ["", "exchanges of one chunk, received by one device:"]
        for each in plan.programs:
            made += [f"  {each.name}: {line}" for line in exchanges(each)]
    made += ["", "time of one chunk cannot go below:"]
    made += [f"  {what:<12}{in_seconds(seconds):>12}" for what, seconds in plan.seconds.items()]
    bound = max(plan.seconds, key=plan.seconds.get)
    whole = plan.chunks * plan.roofline
    made += [
        f"  bound by {bound}: {in_seconds(plan.roofline)} a chunk, {in_seconds(whole)} for "
        f"{plan.minutes:g} minute(s) ({plan.chunks} chunks)",
        "",
        f"all of that video's keys and values, kept whole, would be {in_bytes(plan.dense_history)} "
        f"over all devices; the bank is {in_bytes(plan.parts['bank'])} on each and does not grow",
        f"peaks of {plan.chip.name}: {plan.chip.flops / 1e12:.0f} TFLOP/s bfloat16, "
        f"{plan.chip.bandwidth / 1e9:.0f} GB/s memory, {plan.chip.link / 1e9:.0f} GB/s a mesh axis "
        f"({plan.chip.source})",
    ]
    return made


def exchanges(made: Program) -> list[str]:
    """Of a program, those of one kind along the same axes together."""
    if not made.collectives:
        return ["none"]
    together: dict[tuple, list[int]] = {}
    for each in made.collectives:
        row = together.setdefault((each.kind, each.axes), [0, 0])
        row[0] += each.times
        row[1] += each.received
    return [
        f"{kind} over {' x '.join(axes) or 'nothing'}: {times} of {in_bytes(size)} together"
        for (kind, axes), (times, size) in together.items()
    ]


def excerpt(message: str) -> list[str]:
    """The compiler's sizes: its first lines and the largest allocations."""
    wanted = [line.strip() for line in message.splitlines() if line.strip()]
    return wanted[:6] + [line for line in wanted[6:] if line.startswith("Size:")][:5]


def in_bytes(size: float) -> str:
    """`1.50 GB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size:.0f} B"


def in_flop(work: float) -> str:
    """`1.50 TFLOP`, and thousands of them: a chunk has many and a small model few."""
    unit, scale = ("TFLOP", 1e12) if work >= 1e10 else ("MFLOP", 1e6)
    return f"{work / scale:,.2f} {unit}"


def in_seconds(time: float) -> str:
    """`1.50 s` or `1.50 ms`."""
    return f"{time:.2f} s" if time >= 0.1 else f"{1e3 * time:.3f} ms"


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as numbers."""
    return dataclasses.asdict(plan) | {"roofline": plan.roofline}
