"""Translates errors of JAX and NumPy about a missing device or memory into one sentence."""

from __future__ import annotations

import os
import re

from bvjax.errors import UserError, WorkError

_NO_MEMORY = re.compile("resource_exhausted|out[ _]of[ _]memory", re.IGNORECASE)
_WANTED = re.compile(r"allocat(?:e|ing) (\d+(?:\.\d+)?)\.? ?(bytes|[KMGTPE]i?B)")
LOWER = (
    "lower memory.capacity or memory.slots, store the memory in 8 bits (memory.dtype=int8) or on the "
    "host (memory.offload=host), or make the video smaller (chunk.height, chunk.width)"
)


def translated(error: BaseException) -> UserError | WorkError | None:
    """What is missing and what to do about it; None for an error that is about something else.

    Memory that runs out is work that failed; a device that JAX was told to use and that is not there
    is bad input.
    """
    if not isinstance(error, MemoryError | RuntimeError | AssertionError):
        return None
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        where = "host" if isinstance(error, MemoryError) else "device"
        return WorkError(
            f"out of memory on the {where}{_wanted(text)}: {LOWER}; in training and evaluation lower the batch"
        )
    if text.startswith("Unable to initialize backend") or (not text and not has_device()):
        asked = os.environ.get("JAX_PLATFORMS", "")
        if asked:
            return UserError(
                f"JAX cannot use {asked!r} here, which the environment variable JAX_PLATFORMS asks "
                "for; unset it to take what there is, or install JAX for that hardware"
            )
        return UserError(f"JAX finds no device to compute on: {text or 'no reason is given'}")
    return None


def _wanted(text: str) -> str:
    """How much was asked for, where the message says so."""
    found = _WANTED.search(text)
    if not found:
        return ""
    size = f"{int(found[1]) / 1e9:,.1f} GB" if found[2] == "bytes" else f"{found[1]} {found[2]}"
    return f" ({size} at once)"


def has_device() -> bool:
    """Whether JAX has something to compute on: some of its refusals are assertions without a word."""
    import jax  # here: sentences about files need no JAX

    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):
        return False


def host_bytes() -> int:
    """The size of the host's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def device_bytes() -> int | None:
    """The size of the first device's memory, which is the host's for a CPU; None where it is not told."""
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        return host_bytes()
    return (device.memory_stats() or {}).get("bytes_limit")
