"""Compiling ahead of time for machines that are not here; `make test-aot` runs these tests."""

from __future__ import annotations

import functools
import importlib.util
import os

# The tests' own flag turns optimisation off, on these machines too.
_flags = os.environ.pop("XLA_FLAGS").replace("--xla_backend_optimization_level=0", "").strip()
if _flags:  # XLA takes a blank for the name of a file
    os.environ["XLA_FLAGS"] = _flags
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no device that only one may hold
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")

import pytest  # noqa: E402
from jax.experimental import topologies  # noqa: E402

_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_H200 = (
    _H100.replace("3352320000000", "4800000000000")
    .replace("84978434048", "151000000000")
    .replace("H100 80GB HBM3", "H200")
)


@functools.cache
def topology_devices(name: str) -> list:
    """Devices of "v5p:2x2x1" (a TPU topology) or of "h100:1x8" (hosts x GPUs each)."""
    kind, shape = name.split(":")
    if kind.startswith("v"):
        needed, options = "libtpu", dict(platform="tpu", topology_name=name)
    else:
        needed = "jax_cuda13_plugin"
        options = dict(
            platform="cuda", topology_name=kind, topology=f"1x{shape}",
            target_config={"h100": _H100, "h200": _H200}[kind],
        )  # fmt: skip
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"no {needed} in this environment")
    return topologies.get_topology_desc(**options).devices


@pytest.fixture
def devices():
    return topology_devices
