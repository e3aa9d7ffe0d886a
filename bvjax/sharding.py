"""Where large arrays live: each spread over the devices of a mesh along one of its axes."""

from __future__ import annotations

import math
from collections.abc import Callable

from jax.sharding import Mesh, NamedSharding, PartitionSpec


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
