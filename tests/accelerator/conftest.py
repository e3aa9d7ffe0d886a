"""Tests of what only an accelerator can show: make test-accelerator, on a machine that has one."""

from __future__ import annotations

import jax
import pytest

from kernels_pallas.platforms import platform_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests of this folder where there is no accelerator, and says so."""
    platform = platform_of(jax.devices()[0])
    if platform != "cpu":
        return
    why = pytest.mark.skip(reason=f"no accelerator: JAX {jax.__version__} finds a {platform} only")
    for item in items:
        if "accelerator" in item.path.parts:
            item.add_marker(why)


@pytest.fixture(scope="session")
def cpu() -> jax.Device:
    """The host, which computes what the accelerator is compared with."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        pytest.skip("JAX_PLATFORMS leaves no CPU to compare with; add cpu to it")
