"""Meshes that a model can be generated or trained on, and the default one for generation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
from absl import logging
from jax.sharding import Mesh

from bvjax import machine, policies
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.memory.bank import init_bank
from bvjax.memory.storage import storage_dtype
from bvjax.sharding import (
    AXES,
    ONE_DEVICE,
    TOKENS,
    Layout,
    longest_axis_rule,
    make_layout,
    parse_mesh,
)

LARGE_LEAF = 2**20  # values; smaller leaves are replicated


def mesh_error(model: ModelConfig, sizes: dict[str, int]) -> str | None:
    """Returns why `model` cannot be sharded over such a mesh, in one sentence; None if it can."""
    data = sizes.get("data", 1)
    grid, block = ChunkGrid.of(model), model.sampler.causal_block
    # What goes through the network at once: a window or its blocks, and a chunk when it is encoded.
    # The tokens of a single latent, once a video, need not divide (`Layout.for_tokens`).
    window = block if block > 1 else grid.window_latents
    slot = _slot(model, sizes)
    error = _uneven([*_network(model, sizes, window, grid.latents_per_chunk), slot])
    if error is not None:
        return error
    if data > 2 or (data == 2 and not model.guidance.guided):
        return (
            f"data={data}: there are {1 + model.guidance.guided} branches of guidance to share out"
        )
    return None


def training_mesh_error(
    model: ModelConfig, sizes: dict[str, int], rollouts: bool = False
) -> str | None:
    """`mesh_error` of training, where a batch is sharded over `data`.

    Args:
        rollouts: whether the model rolls itself out, for which there is a bank; else there is none.
    """
    return _uneven(_network(model, sizes, 1) + [_slot(model, sizes)] * rollouts)


def _network(model: ModelConfig, sizes: dict[str, int], *latents: int) -> list[tuple]:
    """The DiT's sharded dimensions: (axis, shards, size, name); so many latents go through it at once."""
    grid, tensor = ChunkGrid.of(model), sizes.get("tensor", 1)
    rows = math.prod(sizes.get(axis, 1) for axis in TOKENS)
    return [
        ("tensor", tensor, model.dit.num_heads, "heads"),
        ("tensor", tensor, model.dit.ffn_dim, "hidden features (dit.ffn_dim)"),
        *(
            (" x ".join(TOKENS), rows, grid.tokens_per_latent * (n // model.dit.patch[0]), "tokens")
            for n in latents
        ),
    ]


def _slot(model: ModelConfig, sizes: dict[str, int]) -> tuple:
    """The sharded dimension of a bank, as `_network`."""
    rows = math.prod(sizes.get(axis, 1) for axis in TOKENS)
    return " x ".join(TOKENS), rows, model.memory.capacity, "rows of a slot (memory.capacity)"


def _uneven(cuts: list[tuple]) -> str | None:
    for axis, parts, total, name in cuts:
        if total % parts:
            fitting = [n for n in range(1, total + 1) if total % n == 0 and n <= 1024]
            return f"{axis}={parts} does not cut {total} {name} evenly; it can be {fitting}"
    return None


def check_layout(model: ModelConfig, layout: Layout) -> None:
    """Raises `UserError` if `model` cannot be sharded as `layout` says."""
    if layout.mesh is not None:
        policies.check_layout(model, layout.mesh.size)
        error = mesh_error(model, dict(layout.mesh.shape))
        if error is not None:
            raise UserError(f"this mesh does not fit the model: {error}")


def check_memory(model: ModelConfig, layout: Layout = ONE_DEVICE) -> None:
    """Raises `UserError` when the bank alone is larger than where it is kept."""
    empty = lambda: init_bank(model, 1, storage_dtype(model))
    values = jax.tree.leaves(jax.eval_shape(empty))
    size = (1 + model.guidance.two_banks) * sum(
        math.prod(x.shape) * x.dtype.itemsize for x in values
    )
    place = "host"
    available: int | None = machine.host_bytes()
    if model.memory.offload == "none":
        place, count = "device", 1 if layout.mesh is None else layout.mesh.size
        device_bytes = machine.device_bytes()
        available = device_bytes and device_bytes * count
    if available is not None and size > available:
        raise UserError(
            f"the memory of earlier chunks takes {size / 1e9:,.1f} GB; the {place} has "
            f"{available / 1e9:,.1f} GB: {machine.LOWER}"
        )


def choose_mesh(model: ModelConfig, count: int) -> dict[str, int] | None:
    """Sizes of a mesh of `count` devices: guidance over data, then tokens, then heads.

    Attention then moves keys and values only, which costs least.  None if nothing fits.
    """
    for data in (2, 1):
        per_data, remainder = divmod(count, data)
        for tensor in (n for n in range(1, per_data + 1) if not remainder and per_data % n == 0):
            sizes = dict(data=data, context=per_data // tensor, tensor=tensor)
            if mesh_error(model, sizes) is None:
                return sizes
    return None


def choose_layout(
    model: ModelConfig,
    sizes: dict[str, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Layout:
    """The layout to generate with: as said, or the best of all devices; one device has none.

    Raises:
      UserError: `sizes` do not fit the model or the devices.
    """
    devices = jax.devices() if devices is None else devices
    row = policies.policy_of(model.policy.name)
    if sizes is None and len(devices) > 1 and (row.windows or row.one_device):
        logging.warning("policy %s is made on one device", model.policy.name)
        return ONE_DEVICE
    if sizes is None and len(devices) > 1:
        sizes = choose_mesh(model, len(devices))
        if sizes is None:
            logging.warning("%d devices cannot share this model; one is used", len(devices))
    if sizes is None or (len(devices) == 1 and not set(sizes.values()) - {1}):
        return ONE_DEVICE
    layout = make_layout(sizes, devices)
    check_layout(model, layout)
    if len(devices) > 1:
        shape = ", ".join(f"{axis}={layout.size(axis)}" for axis in AXES)
        logging.info("%d devices as a mesh of %s", len(devices), shape)
    return layout


def layout_of(model: ModelConfig, mesh: str | Mapping[str, int] | None) -> Layout:
    """The devices that generate: as `mesh` says, or as fits best; raises `UserError`."""
    if mesh is None:
        return choose_layout(model)
    text = mesh if isinstance(mesh, str) else ",".join(f"{axis}={n}" for axis, n in mesh.items())
    return choose_layout(model, parse_mesh(text))


def sharding_rule(layout: Layout, part: str):
    """The rule that shards parameters over the devices; None: all on the default one.

    Those of the DiT as its layers use them, those of the others sharded over the whole mesh.
    """
    if layout.mesh is None:
        return None
    if part == "dit":
        return layout.parameter
    return longest_axis_rule(Mesh(layout.mesh.devices.reshape(-1), ("fsdp",)), min_size=LARGE_LEAF)
