"""Devices of a machine that is not here, for programs to be compiled for.

TPU compilers come with `libtpu`, NVIDIA's with JAX's CUDA plugin; neither needs a device.
"""

from __future__ import annotations

import importlib.util
import os
import re

import jax

from bvjax.chips import CHIPS, Chip, find_chip
from bvjax.errors import UserError

# What the compiler must know of a GPU; both are of compute capability 9.0 and differ in memory.
_HOPPER = dict(
    threads_per_block_limit=1024,
    threads_per_warp=32,
    shared_memory_per_block=48 * 2**10,
    shared_memory_per_core=228 * 2**10,
    threads_per_core_limit=2048,
    core_count=132,
    fpus_per_core=128,
    block_dim_limit_x=2**31 - 1,
    block_dim_limit_y=2**16 - 1,
    block_dim_limit_z=2**16 - 1,
    l2_cache_size=50 * 2**20,
    clock_rate_ghz=1.98,
    shared_memory_per_block_optin=227 * 2**10,
    registers_per_core_limit=2**16,
    registers_per_block_limit=2**16,
)
_NAMES = {"h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200"}
LEGAL = "a TPU like v5p:2x2x1, v5e:4x4 or v6e:2x4, or hosts x GPUs like h100:1x8 or h200:4x8"


def topology_devices(topology: str) -> tuple[Chip, list[jax.Device]]:
    """The chip and the devices of a topology, such as v5p:2x2x1.

    Raises:
      UserError: its name is not of a known form, the shape is none of the chip's, or the compiler
        is not installed.
    """
    # Else JAX complains of the libraries of a CUDA that only compiles.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    kind, colon, shape = topology.lower().partition(":")
    if not colon or kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){0,2}", shape):
        raise UserError(f"`topology` is {topology!r}; it can be {LEGAL}")
    if kind in _NAMES:
        return find_chip(kind), _gpus(kind, shape)
    return find_chip(kind), _tpus(kind, shape)


def _tpus(kind: str, shape: str) -> list[jax.Device]:
    _need("libtpu", kind)
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not look for the machine we are not on
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=f"{kind}:{shape}")
    except Exception as error:  # the compiler's own words vary
        raise UserError(f"{kind} has no topology {shape} ({error}); it can be {LEGAL}") from error
    return list(topology.devices)


def _gpus(kind: str, shape: str) -> list[jax.Device]:
    _need("jax_cuda13_plugin", kind)
    from jax.experimental import topologies

    sizes = shape.split("x")
    if len(sizes) > 2:
        raise UserError(f"`topology` is {kind}:{shape}; GPUs are hosts x GPUs, like {kind}:1x8")
    hosts, each = sizes if len(sizes) == 2 else ("1", *sizes)
    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name=kind,
        topology=f"1x{hosts}x{each}",
        target_config=_description(kind),
    )
    return list(topology.devices)


def _description(kind: str) -> str:
    chip = CHIPS[kind]
    numbers = _HOPPER | dict(
        memory_bandwidth=int(chip.bandwidth), device_memory_size=int(chip.memory)
    )
    lines = "\n".join(f"  {key}: {value}" for key, value in numbers.items())
    return (
        f"gpu_device_info {{\n{lines}\n  cuda_compute_capability {{ major: 9 }}\n}}\n"
        'platform_name: "CUDA"\ndnn_version_info { major: 9 minor: 10 }\n'
        f'device_description_str: "{_NAMES[kind]}"\n'
    )


def _need(package: str, kind: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"compiling for {kind} needs {package}, which is not installed here; run "
            "'make setup-aot' and use .venv-aot/bin/python -m bvjax plan"
        )
