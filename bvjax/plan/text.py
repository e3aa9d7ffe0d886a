"""The parts of a plan's report that generating and training share, as lines for a person."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from bvjax.chips import Chip
from bvjax.plan.program import Program


class AnyPlan(Protocol):
    """Fields that plans of generation and of training share; bytes are of one device."""

    @property
    def topology(self) -> str: ...
    @property
    def chip(self) -> Chip: ...
    @property
    def mesh(self) -> dict[str, int]: ...
    @property
    def fits(self) -> bool: ...
    @property
    def needed(self) -> int | None: ...
    @property
    def parts(self) -> dict[str, int]: ...
    @property
    def programs(self) -> tuple[Program, ...]: ...
    @property
    def problem(self) -> str: ...
    @property
    def remedies(self) -> tuple[str, ...]: ...
    @property
    def seconds(self) -> dict[str, float]: ...


def title(plan: AnyPlan) -> str:
    """The devices and their mesh."""
    mesh = ", ".join(f"{axis}={n}" for axis, n in plan.mesh.items())
    return f"{plan.topology}: {math.prod(plan.mesh.values())} x {plan.chip.name}, mesh {mesh}"


def memory(plan: AnyPlan, width: int) -> list[str]:
    """Parts of the memory, in columns of `width` characters, and whether all fits."""
    lines = [
        "",
        f"memory of one device, of {in_bytes(plan.chip.memory)}:",
        *columns(plan.parts, width, 10),
    ]
    for each in plan.programs:
        lines.append(
            f"  {each.name}: arguments {in_bytes(each.arguments)}, temporaries "
            f"{in_bytes(each.temporaries)} (the largest {in_bytes(each.largest.bytes)}, "
            f"{each.largest.shape}), outputs {in_bytes(each.outputs)}"
        )
    verdict = "fits" if plan.fits else "does not fit"
    if plan.needed:
        share = plan.needed / plan.chip.memory
        verdict = f"{in_bytes(plan.needed)} at once: {verdict} ({share:.0%} of the memory)"
    lines.append(f"  {verdict}")
    if plan.problem:
        lines += ["  " + line for line in excerpt(plan.problem)]
    return lines + [f"  would fit: {remedy}" for remedy in plan.remedies]


def least_times(plan: AnyPlan, unit: str) -> list[str]:
    """Lower bounds of the time of one `unit`, and the one that counts."""
    bound, roofline = max(plan.seconds.items(), key=lambda item: item[1])
    return [
        "",
        f"time of one {unit} cannot go below:",
        *(
            f"  {bound_name:<12}{in_seconds(seconds):>12}"
            for bound_name, seconds in plan.seconds.items()
        ),
        *([] if plan.programs else ["  links            unknown: nothing was compiled"]),
        f"  bound by {bound}: {in_seconds(roofline)} a {unit}, ",
    ]


def peaks(chip: Chip) -> str:
    """The published peaks that bound the times."""
    return (
        f"peaks of {chip.name}: {chip.flops / 1e12:.0f} TFLOP/s bfloat16, "
        f"{chip.bandwidth / 1e9:.0f} GB/s memory, {chip.link / 1e9:.0f} GB/s a mesh axis"
        f"{f', {chip.network / 1e9:.0f} GB/s between hosts' if chip.network else ''} ({chip.source})"
    )


def columns(sizes: Mapping[str, int], name: int, size: int) -> list[str]:
    """Bytes by name, in columns of so many characters."""
    return [f"  {part:<{name}}{in_bytes(value):>{size}}" for part, value in sizes.items()]


def work_columns(work: Mapping[str, int], name: int, size: int) -> list[str]:
    """FLOPs by name, in columns of so many characters."""
    return [f"  {part:<{name}}{in_flop(value):>{size}}" for part, value in work.items()]


def collectives(program: Program) -> list[str]:
    """Collectives of a program, those of one kind over the same axes together."""
    if not program.collectives:
        return ["none"]
    totals: dict[tuple, list[int]] = {}
    for each in program.collectives:
        row = totals.setdefault((each.kind, each.axes), [0, 0])
        row[0] += each.times
        row[1] += each.received
    return [
        f"{kind} over {' x '.join(axes) or 'nothing'}: {times} of {in_bytes(size)} together"
        for (kind, axes), (times, size) in totals.items()
    ]


def excerpt(message: str) -> list[str]:
    """The compiler's sizes: its first lines and the largest allocations."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[:6] + [line for line in lines[6:] if line.startswith("Size:")][:5]


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
