"""Versions of the software and hardware that made a result."""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import subprocess

import jax

import bvjax

PACKAGES = ("bvjax", "jax", "jaxlib", "flax", "numpy", "av", "opencv-python-headless")


def software() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; asks for no device."""
    result = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            result[package] = "not installed"
    return result


def versions() -> dict[str, str]:
    """Software and hardware, for the record: results are bit-exact for equal versions only."""
    root = pathlib.Path(bvjax.__file__).parents[1]
    result, device = software(), jax.devices()[0]
    result |= {"backend": device.platform, "device": device.device_kind}
    if (root / ".git").exists():
        git = ("git", "-C", str(root), "rev-parse", "HEAD")
        try:
            result["commit"] = subprocess.run(
                git, capture_output=True, encoding="utf-8", timeout=10, check=True
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass  # no git, or no commit yet: the version number has to do
    return result
