"""Which mesh a model can be generated or trained on, and which one to generate on by default."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
from absl import logging
from jax.sharding import Mesh

from bvjax import machine
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.memory.bank import init_bank
from bvjax.memory.storage import storage_dtype
from bvjax.sharding import AXES, ONE_DEVICE, TOKENS, Layout, make_layout, parse_mesh, spread

LARGE_LEAF = 2**20  # values; smaller leaves are whole on every device


def mesh_error(model: ModelConfig, sizes: dict[str, int]) -> str | None:
    """Why `model` cannot be cut so, in one sentence; None if it can."""
    data, rows = sizes.get("data", 1), math.prod(sizes.get(axis, 1) for axis in TOKENS)
    grid, block = ChunkGrid.of(model), model.sampler.causal_block
    # What goes through the network at once: a window or its blocks, and a chunk when it is encoded.
    # The tokens of a single latent, once a video, need not divide (`Layout.for_tokens`).
    window = block if block > 1 else grid.window_latents
    slot = (" x ".join(TOKENS), rows, model.memory.capacity, "rows of a slot (memory.capacity)")
    why = _uneven([*_network(model, sizes, window, grid.latents_per_chunk), slot])
    if why is not None:
        return why
    if data > 2 or (data == 2 and not model.guidance.guided):
        return (
            f"data={data}: there are {1 + model.guidance.guided} branches of guidance to share out"
        )
    return None


def training_mesh_error(model: ModelConfig, sizes: dict[str, int]) -> str | None:
    """The same of training, where `data` cuts a batch and there is no bank."""
    return _uneven(_network(model, sizes, 1))


def _network(model: ModelConfig, sizes: dict[str, int], *latents: int) -> list[tuple]:
    """What the DiT has cut: (axis, parts, total, what); so many latents go through it at once."""
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


def _uneven(cuts: list[tuple]) -> str | None:
    for axis, parts, total, what in cuts:
        if total % parts:
            fitting = [n for n in range(1, total + 1) if total % n == 0 and n <= 1024]
            return f"{axis}={parts} does not cut {total} {what} evenly; it can be {fitting}"
    return None


def check_layout(model: ModelConfig, layout: Layout) -> None:
    """Raises `UserError` if `model` cannot be cut as `layout` says."""
    if layout.mesh is not None:
        why = mesh_error(model, dict(layout.mesh.shape))
        if why is not None:
            raise UserError(f"this mesh does not fit the model: {why}")


def check_memory(model: ModelConfig, layout: Layout = ONE_DEVICE) -> None:
    """Raises `UserError` when the bank alone is larger than where it is kept."""
    empty = lambda: init_bank(model, 1, storage_dtype(model))
    values = jax.tree.leaves(jax.eval_shape(empty))
    size = (1 + model.guidance.two_banks) * sum(
        math.prod(x.shape) * x.dtype.itemsize for x in values
    )
    place = "host"
    room: int | None = machine.host_bytes()
    if model.memory.offload == "none":
        place, count = "device", 1 if layout.mesh is None else layout.mesh.size
        each = machine.device_bytes()
        room = each and each * count
    if room is not None and size > room:
        raise UserError(
            f"the memory of earlier chunks takes {size / 1e9:,.1f} GB; the {place} has "
            f"{room / 1e9:,.1f} GB: {machine.LOWER}"
        )


def choose_mesh(model: ModelConfig, count: int) -> dict[str, int] | None:
    """Sizes of a mesh of `count` devices: guidance over data, then tokens, then heads.

    Attention then moves keys and values only, which costs least.  None if nothing fits.
    """
    for data in (2, 1):
        rest, left = divmod(count, data)
        for tensor in (n for n in range(1, rest + 1) if not left and rest % n == 0):
            sizes = dict(data=data, context=rest // tensor, tensor=tensor)
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
    """How parameters lie on the devices; None: all on the default one.

    Those of the DiT as its layers want them, those of the others spread over the whole mesh.
    """
    if layout.mesh is None:
        return None
    if part == "dit":
        return layout.parameter
    return spread(Mesh(layout.mesh.devices.reshape(-1), ("fsdp",)), least=LARGE_LEAF)
