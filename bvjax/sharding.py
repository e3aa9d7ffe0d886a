"""Shardings: a mesh of (data, fsdp, context, tensor) and what is sharded over which axis.

  data     the two branches of guidance, rows of a batch
  fsdp     weights; gathered layer by layer when their turn comes
  context  tokens of a chunk, rows of the bank; those of a single latent where they divide
  tensor   heads, and the hidden features between two projections

A `Layout` is passed, static, to the functions that care; the default one is a single device and
changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import (
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from bvjax.errors import UserError
from bvjax.plain_text import whole_number
from kernels_pallas.platforms import platform_of

AXES = ("data", "fsdp", "context", "tensor")
TOKENS = ("fsdp", "context")  # axes that tokens and rows are sharded over

# Parameters of a DiT's layers by the end of their name.
# Between a projection of the first kind and one of the second, features are sharded over `tensor`.
_COLUMNS = ("attn/q/kernel", "attn/k/kernel", "attn/v/kernel", "ffn/0/kernel")
_ROWS = ("attn/o/kernel", "ffn/2/kernel")
_FEATURES = (
    *(name.replace("kernel", "bias") for name in _COLUMNS),
    "norm_q/scale",
    "norm_k/scale",
    "similarity_key",
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh with all of `AXES`, or None for one device; hashable, so that it can be static."""

    mesh: Mesh | None = None
    one_replica: bool = False  # see `replica`

    def size(self, *axes: str) -> int:
        """The number of devices of one or several axes; 1 without a mesh."""
        if self.mesh is None:
            return 1
        inner = (axis for axis in axes if not (self.one_replica and axis == "data"))
        return math.prod(self.mesh.shape[axis] for axis in inner)

    @property
    def kernels(self) -> str:
        """The `implementation` of kernels: the platform that programs are compiled for."""
        return "auto" if self.mesh is None else platform_of(self.mesh.devices.flat[0])

    def sharding(self, *axes: str | tuple[str, ...] | None) -> Sharding:
        """The sharding of an array whose leading dimensions are sharded over `axes`, the others replicated.

        Without a mesh: that of an array on the default device.
        """
        if self.mesh is None:
            return SingleDeviceSharding(jax.devices()[0])
        mesh = jax.sharding.get_abstract_mesh() if self.one_replica else self.mesh
        return NamedSharding(mesh, PartitionSpec(*axes))

    def constrain(self, x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
        """Returns `x` with the constraint that its leading dimensions are sharded over `axes`."""
        if self.mesh is None:
            return x
        return jax.lax.with_sharding_constraint(x, self.sharding(*axes))

    def for_tokens(self, count: int) -> Layout:
        """This layout where `count` tokens divide, else one in which tokens are replicated.

        The devices and their order are the same, so one program can use both.
        """
        if count % self.size(*TOKENS) == 0:
            return self
        assert self.mesh is not None
        data, fsdp, context, tensor = self.mesh.devices.shape
        copies = self.mesh.devices.reshape(data, 1, 1, fsdp * context, tensor)
        return Layout(Mesh(copies, ("data", *TOKENS, "copies", "tensor")))

    def rows(self, batch: int) -> str | None:
        """The axis that `batch` rows are sharded over: `data`, or none where it does not divide."""
        divides = batch % self.size("data") == 0
        return "data" if divides and not self.one_replica else None

    def pair(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """[a, b], stacked and sharded over `data` (of size 2), without any communication."""
        local = lambda a, b: jnp.where(jax.lax.axis_index("data") == 0, a, b)[None]
        return self.manual(local, (PartitionSpec(), PartitionSpec()), PartitionSpec("data"))(a, b)

    def manual(self, fn: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """`fn` of each device's own shard of the arrays (`jax.shard_map`)."""
        where: Any = dict(mesh=self.mesh)
        if self.one_replica:  # the mesh around it, but for what `each_replica` has taken
            where = dict(axis_names=set(AXES) - {"data"})
        return jax.shard_map(fn, in_specs=in_specs, out_specs=out_specs, check_vma=False, **where)

    @property
    def replica(self) -> Layout:
        """The layout of one replica of the model, all devices of one index of `data`, inside of `each_replica`."""
        return self if self.mesh is None else Layout(self.mesh, one_replica=True)

    def each_replica(self, fn: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """`fn` of each replica's own shard along `data`; what it does is sharded by `replica`.

        Replicas need not do the same: loops and conditions of `fn` may depend on the data.  Specs name `data` alone.
        """
        if self.mesh is None:
            return fn
        return jax.shard_map(
            fn,
            mesh=self.mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            axis_names={"data"},
            check_vma=False,
        )

    def parameter(self, name: str, shape: tuple[int, ...]) -> Sharding:
        """The sharding of a DiT's parameter: features over `tensor`, the kernel's other axis over `fsdp`.

        Of a critic's heads, whose parts have the names of a layer's, the longest axis is sharded over `fsdp`.  Other
        parameters that are no layer's are replicated: 0.2 of 14 billion in the large model.
        """
        axes: list[str | None] = [None] * len(shape)
        if "blocks/" not in name:
            if "heads/" in name and len(shape) > 1:
                longest = max(range(len(shape)), key=lambda i: shape[i])
                if shape[longest] % self.size("fsdp") == 0:
                    axes[longest] = "fsdp"
            return self.sharding(*axes)
        if name.endswith(_FEATURES):
            axes[1] = "tensor"
        elif name.endswith(_COLUMNS):
            axes[1:] = "fsdp", "tensor"
        elif name.endswith(_ROWS):
            axes[1:] = "tensor", "fsdp"
        fits = (
            a if a and n % self.size(a) == 0 else None for a, n in zip(axes, shape, strict=True)
        )
        return self.sharding(*fits)

    def parameters(self, tree: Any) -> Any:
        """`parameter` of each leaf of a DiT's parameters."""
        return jax.tree_util.tree_map_with_path(
            lambda path, x: self.parameter("/".join(k.key for k in path), x.shape), tree
        )

    def constrain_parameters(self, tree: Any) -> Any:
        """Returns parameters, or gradients of them, with the constraint that they are sharded as `parameters`."""
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, self.parameters(tree))


ONE_DEVICE = Layout()


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
        requested = ", ".join(f"{axis}={n}" for axis, n in zip(AXES, shape, strict=True))
        raise UserError(
            f"a mesh of {requested} has {math.prod(shape)} devices; there are {len(devices)}"
        )
    return Layout(Mesh(arranged(shape, devices), AXES))


def arranged(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """The devices as an array of axes `AXES`: neighbours in it are neighbours in the machine, as far as that allows.

    Of several slices (TPU pods, or groups of GPUs that share NVLink), between which the network is slow, only `data`
    crosses from one to the other.  Where `data` is no multiple of their number, GPUs are taken in their order, which
    is that of their hosts.

    Raises:
        UserError: TPU slices that `data` cannot be cut over.
    """
    slices = {getattr(device, "slice_index", None) for device in devices}
    count = len(slices)
    if count > 1 and shape[0] % count == 0:
        inside = shape[0] // count, *shape[1:]
        across = count, *(1 for _ in shape[1:])
        return mesh_utils.create_hybrid_device_mesh(
            inside, across, devices, allow_split_physical_axes=True
        )
    if count > 1 and devices[0].platform == "tpu":
        raise UserError(
            f"the mesh is over {count} slices and only data crosses them, so it must be a multiple of {count}; "
            f"data is {shape[0]}"
        )
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def parse_mesh(text: str) -> dict[str, int]:
    """`context=4,tensor=2` as a dictionary; raises `UserError` for anything else."""
    sizes = {}
    for part in filter(None, text.split(",")):
        axis, equals, number = part.partition("=")
        size = whole_number(number)
        if axis not in AXES or not equals or size is None or axis in sizes:
            raise UserError(
                f"a mesh is written like context=4,tensor=2 with the axes {', '.join(AXES)}, "
                f"not {text!r}"
            )
        sizes[axis] = size
    return sizes


def longest_axis_rule(
    mesh: Mesh, axis: str = "fsdp", min_size: int = 0
) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """A rule (name, shape) -> sharding: the longest axis that the mesh axis divides is sharded over it.

    The axis of stacked layers ("blocks/...", axis 0) is not, so that a layer's parameters are
    gathered when its turn comes and not before.  Leaves of fewer than `min_size` values, and those
    that do not divide, are replicated.
    """
    size = mesh.shape[axis]

    def rule(name: str, shape: tuple[int, ...]) -> NamedSharding:
        first = int(name.startswith("blocks/"))
        fitting = [i for i in range(first, len(shape)) if shape[i] % size == 0]
        if not fitting or math.prod(shape) < min_size:
            return NamedSharding(mesh, PartitionSpec())
        longest = max(fitting, key=lambda i: shape[i])
        return NamedSharding(
            mesh, PartitionSpec(*(axis if i == longest else None for i in range(len(shape))))
        )

    return rule
