"""Where training arrays live: one mesh axis, `data`, over the devices of this host.

The batch is split along its first axis and the state is replicated.  Larger layouts change only
what these functions return; the step takes shardings and knows nothing else of the mesh.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bvjax.errors import UserError


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `devices` (default: the first one) with the axis `data`."""
    devices = list(devices or jax.devices()[:1])
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def state_sharding(mesh: Mesh) -> NamedSharding:
    """Every leaf of the state is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Every leaf of a batch is split along its first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def accumulation_steps(global_batch: int, device_batch: int, devices: int) -> int:
    """How many micro batches make one update: global = devices x device_batch x steps.

    Raises:
        UserError: the global batch does not divide; names the nearest that does.
    """
    if global_batch < 1 or device_batch < 1:
        raise UserError(
            f"global_batch_size {global_batch} and device_batch_size {device_batch} "
            "must be positive"
        )
    at_once = devices * device_batch
    if global_batch % at_once:
        nearest = max(round(global_batch / at_once), 1) * at_once
        raise UserError(
            f"global_batch_size {global_batch} is not a multiple of {devices} device(s) x "
            f"device_batch_size {device_batch}; the nearest that is: {nearest}"
        )
    return global_batch // at_once


def describe_batch(global_batch: int, device_batch: int, devices: int) -> str:
    """`64 = 1 device x 16 x 4 accumulation`; raises as `accumulation_steps`."""
    accum = accumulation_steps(global_batch, device_batch, devices)
    plural = "" if devices == 1 else "s"
    return f"{global_batch} = {devices} device{plural} x {device_batch} x {accum} accumulation"
