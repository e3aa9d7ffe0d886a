"""Compiling ahead of time for machines that are not here; `make test-aot` runs these tests.

Nothing here is collected where the compilers are not installed.
"""

from __future__ import annotations

import functools
import importlib.util
import os

collect_ignore_glob = ["test_*.py"]
if importlib.util.find_spec("libtpu") and importlib.util.find_spec("jax_cuda13_plugin"):
    collect_ignore_glob = []
    # The tests' own flag turns optimisation off, for these machines too.
    flags = os.environ.pop("XLA_FLAGS", "").replace("--xla_backend_optimization_level=0", "")
    if flags.strip():  # XLA takes a blank for the name of a file
        os.environ["XLA_FLAGS"] = flags.strip()
    os.environ["JAX_PLATFORMS"] = "cpu"  # libtpu looks for a TPU otherwise, at length
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no device that only one may hold
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")

import pytest  # noqa: E402

from bvjax.plan import topology  # noqa: E402


@pytest.fixture(scope="session")
def devices():
    """devices("v5p:2x2x1") or devices("h100:1x8"): those of a machine that is not here."""
    return functools.cache(lambda name: topology.topology_devices(name)[1])
