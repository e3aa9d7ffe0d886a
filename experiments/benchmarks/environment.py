"""Provenance of a measurement: device, software, command."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
from collections.abc import Sequence


def device() -> str:
    """The default device in words; of a CPU its model and cores."""
    import jax

    first, count = jax.devices()[0], jax.device_count()
    if first.platform == "cpu":
        return f"{processor()}, {cores()} cores"
    return first.device_kind + (f" x {count}" if count > 1 else "")


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def processor() -> str:
    """The CPU's own name, where Linux tells it."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"model name\s*: (.*)", text)
    return match[1].strip() if match else platform.machine()


def versions(*packages: str) -> str:
    """`python 3.11.7, jax 0.10.2, ...`; jax and flax, and `packages` that are installed."""
    entries = [f"python {platform.python_version()}"]
    for package in ("jax", "flax", *packages):
        try:
            entries.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    return ", ".join(entries)


def command(module: str, argv: Sequence[str]) -> str:
    """The command line of a module, to be read by a person."""
    words = [word for word in argv if word != "--write-docs"]
    return " ".join(["python -m", module, *map(shlex.quote, words)])
