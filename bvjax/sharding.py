"""Where arrays live: a mesh of (data, fsdp, context, tensor) and what is cut along which axis.

  data     the two branches of guidance, rows of a batch
  fsdp     weights; gathered layer by layer when their turn comes
  context  tokens of a chunk, rows of the bank
  tensor   heads, and the hidden features between two projections

A `Layout` is passed, static, to the functions that care; the default one is a single device and
changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bvjax.errors import UserError
from kernels_pallas.platforms import platform_of

AXES = ("data", "fsdp", "context", "tensor")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh with all of `AXES`, or None for one device; hashable, so that it can be static."""

    mesh: Mesh | None = None

    def size(self, *axes: str) -> int:
        """Devices along one or several axes; 1 without a mesh."""
        return 1 if self.mesh is None else math.prod(self.mesh.shape[axis] for axis in axes)

    @property
    def kernels(self) -> str:
        """What to pass as `implementation` to kernels: the platform that programs are made for."""
        return "auto" if self.mesh is None else platform_of(self.mesh.devices.flat[0])

    def sharding(self, *axes: str | tuple[str, ...] | None) -> NamedSharding:
        """Of an array whose leading dimensions are cut along `axes`, the others whole."""
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def constrain(self, x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
        """`x`, told to the compiler to be cut so."""
        if self.mesh is None:
            return x
        return jax.lax.with_sharding_constraint(x, self.sharding(*axes))


def make_layout(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Layout:
    """A mesh of `sizes` (missing axes: 1) over `devices`, by default all of this machine's.

    Raises:
      UserError: unknown axis, or the product of the sizes is not the number of devices.
    """
    for axis in sizes:
        if axis not in AXES:
            raise UserError(f"the mesh has no axis {axis!r}; it has {', '.join(AXES)}")
    devices = list(jax.devices() if devices is None else devices)
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    if min(shape) < 1 or math.prod(shape) != len(devices):
        wanted = ", ".join(f"{axis}={n}" for axis, n in zip(AXES, shape, strict=True))
        raise UserError(
            f"a mesh of {wanted} has {math.prod(shape)} devices; there are {len(devices)}"
        )
    if len(devices) == 1:
        array = np.array(devices).reshape(shape)
        return Layout(Mesh(array, AXES))
    kinds = (AxisType.Auto,) * len(AXES)
    return Layout(jax.make_mesh(shape, AXES, kinds, devices=devices))


def parse_mesh(text: str) -> dict[str, int]:
    """`context=4,tensor=2` as a dictionary; raises `UserError` for anything else."""
    sizes = {}
    for part in filter(None, text.split(",")):
        axis, equals, number = part.partition("=")
        if axis not in AXES or not equals or not number.isdigit() or axis in sizes:
            raise UserError(
                f"a mesh is written like context=4,tensor=2 with the axes {', '.join(AXES)}, "
                f"not {text!r}"
            )
        sizes[axis] = int(number)
    return sizes


def spread(
    mesh: Mesh, axis: str = "fsdp", least: int = 0
) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """A rule (name, shape) -> sharding: the longest axis that divides by the mesh axis is cut.

    The axis of stacked layers ("blocks/...", axis 0) is not, so that a layer's parameters are
    gathered when its turn comes and not before.  Leaves of fewer than `least` values, and those
    that do not divide, are whole on every device.
    """
    size = mesh.shape[axis]

    def rule(name: str, shape: tuple[int, ...]) -> NamedSharding:
        first = int(name.startswith("blocks/"))
        fitting = [i for i in range(first, len(shape)) if shape[i] % size == 0]
        if not fitting or math.prod(shape) < least:
            return NamedSharding(mesh, PartitionSpec())
        longest = max(fitting, key=lambda i: shape[i])
        return NamedSharding(
            mesh, PartitionSpec(*(axis if i == longest else None for i in range(len(shape))))
        )

    return rule
