"""Runs `tests/devices` on 8 virtual CPU devices, whose number must be set before JAX starts."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


LONG = ("test_command.py",)  # minutes; what it puts together is tested in pieces


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(path.name, marks=getattr(pytest.mark, "long" if path.name in LONG else "slow"))
        for path in sorted(HERE.glob("devices/test_*.py"))
    ],
)
def test_on_eight_virtual_devices(file):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(HERE / "devices" / file), "-p", "no:xdist"],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout
