"""Limits of a device: programs that fit its memory, and lower bounds of their time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bvjax.plan.chips import Chip
from bvjax.plan.program import Program, TooLarge
from bvjax.sharding import AXES, Layout

# What drivers and libraries keep: of a GPU's memory, and on a TPU (15.75 of a v5e's 16 GiB are free).
RESERVED_SHARE, RESERVED = 0.04, 2**28


def compile_all(
    make: Callable[[], Sequence[Program]], resident: int
) -> tuple[tuple[Program, ...], int | None, str]:
    """(programs, bytes of one device that they need, the compiler's own words where it refused).

    Args:
        resident: bytes that are on the device beside what a program makes.

    The bytes are None where the compiler gave up before it knew.
    """
    try:
        programs = tuple(make())
    except TooLarge as error:
        return (), error.needed, f"{error.name}: {error.message}"
    return programs, resident + max(p.temporaries + p.outputs for p in programs), ""


def usable_bytes(chip: Chip) -> float:
    """Bytes of a chip's memory that a program can have."""
    return chip.memory - (RESERVED_SHARE * chip.memory if chip.name.startswith("h") else RESERVED)


def least_seconds(
    layout: Layout, chip: Chip, programs: Sequence[Program], work: int, moved: int
) -> dict[str, float]:
    """Lower bounds of the time of a chunk or step: matmuls ("products"), memory and links of one device."""
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


def mesh_option(sizes: dict[str, int]) -> str:
    """The option that asks for a mesh, and how many devices it takes."""
    mesh = ",".join(f"{axis}={n}" for axis, n in sizes.items() if n > 1)
    return f"--mesh {mesh} ({math.prod(sizes.values())} devices)"
