"""Two processes of four devices generate what one process of eight does."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

from tests.devices import two_processes

ROOT = pathlib.Path(__file__).parents[2]


def test_two_processes_make_the_video_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    files = [tmp_path / f"{process}.npz" for process in range(2)]
    command = [sys.executable, "-m", "tests.devices.two_processes", address]
    running = [
        subprocess.Popen(
            [*command, str(process), str(file)], env=env, cwd=ROOT, stderr=subprocess.PIPE
        )
        for process, file in enumerate(files)
    ]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-4000:]
    one = two_processes.video()
    for file in files:
        stored = np.load(file)
        for name, want in zip(stored.files, one, strict=True):
            np.testing.assert_allclose(stored[name], want, atol=1e-5 * np.abs(want).max())
