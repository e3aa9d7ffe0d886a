"""Placement of training arrays, by the mesh that `train.mesh` names.

A batch is sharded over `data`.  Parameters, their moving average and the optimizer's state lie as
`Layout.parameter` says; its loss decides how a task's own arrays are sharded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from jax.tree_util import DictKey

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.placement import training_mesh_error
from bvjax.sharding import ONE_DEVICE, Layout, make_layout, parse_mesh
from bvjax.train.config import OneModelConfig
from bvjax.train.task import Params, State


def training_layout(mesh: str, axes: tuple[str, ...], name: str) -> Layout:
    """The layout of `data=2,fsdp=4` for training what is called `name`; "" is the first device alone, or
    with several processes all devices along `data`.

    Args:
        axes: those that it can be sharded over.

    Raises:
        UserError: no such axis, another number of devices, or an axis that is not one of `axes`.
    """
    sizes = parse_mesh(mesh)
    if not sizes and jax.process_count() > 1:
        sizes = {"data": jax.device_count()}
    unsupported = [axis for axis, size in sizes.items() if axis not in axes and size > 1]
    if unsupported:
        raise UserError(
            f"train.mesh is {mesh!r}; the {name} is trained over the axis {', '.join(axes)} alone, without "
            f"{', '.join(unsupported)}"
        )
    return ONE_DEVICE if math.prod(sizes.values()) == 1 else make_layout(sizes)


def check_fits(model: ModelConfig, layout: Layout, rollouts: bool = False) -> None:
    """Raises `UserError` if the DiT of `model` cannot be trained on `layout`, with or without `rollouts` of its own."""
    if layout.mesh is None:
        return
    error = training_mesh_error(model, dict(layout.mesh.shape), rollouts)
    if error is not None:
        raise UserError(f"this mesh does not fit the model: {error}")


def state_shardings(layout: Layout, state: State, *sharded: Params) -> State:
    """The sharding of each leaf of a state (or of its shapes).

    Args:
        layout: where the state lies.
        state: of any task.
        sharded: the parameters of each network of the state that is sharded as the DiT is.  Whatever has the name and
            the shape of one of them lies as it does: its moving average and the optimizer's moments.

    All else is replicated.
    """
    replicated = layout.sharding()
    sharded_leaves = {
        (_name(path), leaf.shape)
        for params in sharded
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }

    def place(path: Any, leaf: Any) -> Sharding:
        name = f"/{_name(path)}"
        matches = [
            n for n, shape in sharded_leaves if name.endswith(f"/{n}") and shape == leaf.shape
        ]
        return layout.parameter(max(matches, key=len), leaf.shape) if matches else replicated

    return jax.tree_util.tree_map_with_path(place, state)


def _name(path) -> str:
    return "/".join(str(entry.key) for entry in path if isinstance(entry, DictKey))


def batch_sharding(layout: Layout) -> Sharding:
    """Returns the sharding of every leaf of a batch: over `data`, along its first axis."""
    return layout.sharding("data")


def local_rows(layout: Layout, size: int) -> tuple[int, ...]:
    """The rows of a batch of `size` that this process' devices hold, in ascending order.

    Which examples a row has does not depend on the number of processes, so that all of them together read each
    example once.
    """
    where = batch_sharding(layout).addressable_devices_indices_map((size,))
    rows = {row for index in where.values() if index for row in range(*index[0].indices(size))}
    return tuple(sorted(rows))


def place_batch(layout: Layout, rows: Mapping[str, np.ndarray], size: int) -> dict[str, jax.Array]:
    """A batch of `size` examples on the devices, of the `local_rows` that this process has read."""
    where = batch_sharding(layout)
    if where.is_fully_addressable:
        return jax.device_put(dict(rows), where)
    return {
        name: jax.make_array_from_process_local_data(where, array, (size, *array.shape[1:]))
        for name, array in rows.items()
    }


def place_whole(layout: Layout, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A batch on the devices, of which every process has all examples."""
    where = batch_sharding(layout)
    return {
        name: jax.make_array_from_callback(array.shape, where, array.__getitem__)
        for name, array in batch.items()
    }


def micro_batches(config: OneModelConfig, layout: Layout) -> int:
    """Returns the number of micro batches of an update; raises as `accumulation_steps`."""
    sizes = config.global_batch_size, config.device_batch_size
    return accumulation_steps(*sizes, layout.size("data"))


def accumulation_steps(global_batch: int, device_batch: int, data: int) -> int:
    """Returns the number of micro batches of one update: global = data x device_batch x steps.

    Args:
        data: devices along the axis `data`.

    Raises:
        UserError: the global batch does not divide; names the nearest that does.
    """
    if global_batch < 1 or device_batch < 1:
        raise UserError(
            f"global_batch_size {global_batch} and device_batch_size {device_batch} "
            "must be positive"
        )
    at_once = data * device_batch
    if global_batch % at_once:
        nearest = max(round(global_batch / at_once), 1) * at_once
        raise UserError(
            f"global_batch_size {global_batch} is not a multiple of data={data} x "
            f"device_batch_size {device_batch}; the nearest that is: {nearest}"
        )
    return global_batch // at_once


def describe_batch(global_batch: int, device_batch: int, data: int) -> str:
    """`64 = data 4 x 2 x 8 accumulation`; raises as `accumulation_steps`."""
    accum = accumulation_steps(global_batch, device_batch, data)
    return f"{global_batch} = data {data} x {device_batch} x {accum} accumulation"
