"""Limits of a device: programs that fit its memory, and lower bounds of their time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bvjax.chips import Chip
from bvjax.plan.hlo import Collective
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
    """Lower bounds of the time of a chunk or step: matmuls ("products"), memory and links of one device.

    There is none of links where nothing was compiled: what would be sent is not known.
    """
    bounds = {
        "products": work / (layout.mesh.size * chip.flops),
        "memory": moved / chip.bandwidth,
    }
    if programs:
        sent = (c for p in programs for c in p.collectives)
        bounds["links"] = sum(_seconds_of(each, layout, chip) for each in sent)
    return bounds


def _seconds_of(collective: Collective, layout: Layout, chip: Chip) -> float:
    """The least time of a collective: inside a host, or through the network that all devices of a host share."""
    group = math.prod(layout.size(axis) for axis in collective.axes if axis in AXES)
    share = {"all-reduce": 2, "reduce-scatter": group}.get(collective.kind, 1)
    whole = share * collective.received
    seconds = whole * (group - 1) / group / chip.link
    hosts = hosts_of_group(layout, collective.axes)
    if chip.network is None or hosts == 1:
        return seconds
    return max(seconds, whole * (hosts - 1) / hosts / (chip.network * group / hosts))


def hosts_of_group(layout: Layout, axes: Sequence[str]) -> int:
    """How many hosts the devices of one group along `axes` of the mesh belong to."""
    mesh = layout.mesh
    if mesh is None:
        return 1
    first = tuple(slice(None) if axis in axes else slice(0, 1) for axis in mesh.axis_names)
    return len({device.process_index for device in mesh.devices[first].flat})


def mesh_option(sizes: dict[str, int]) -> str:
    """The option that asks for a mesh, and how many devices it takes."""
    mesh = ",".join(f"{axis}={n}" for axis, n in sizes.items() if n > 1)
    return f"--mesh {mesh} ({math.prod(sizes.values())} devices)"
