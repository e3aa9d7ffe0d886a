"""Translates errors of JAX and NumPy about a missing device or memory into one sentence."""

from __future__ import annotations

import os
import re

from bvjax.errors import UserError, WorkError

_NO_MEMORY = re.compile("resource_exhausted|out[ _]of[ _]memory", re.IGNORECASE)
_REQUESTED = re.compile(r"allocat(?:e|ing) (\d+(?:\.\d+)?)\.? ?(bytes|[KMGTPE]i?B)")
LOWER = (
    "lower memory.capacity or memory.slots, store the memory in 8 bits (memory.dtype=int8) or on the "
    "host (memory.offload=host), or make the video smaller (chunk.height, chunk.width)"
)


def translated(error: BaseException) -> UserError | WorkError | None:
    """Returns what is missing and what to do about it; None for an error about something else.

    Memory that runs out is work that failed; a device that JAX was told to use and that is not there
    is bad input.
    """
    if not isinstance(error, MemoryError | RuntimeError | AssertionError):
        return None
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        where = "host" if isinstance(error, MemoryError) else "device"
        return WorkError(
            f"out of memory on the {where}{_requested_size(text)}: {LOWER}; in training and evaluation lower the batch"
        )
    if text.startswith("Unable to initialize backend") or (not text and not has_device()):
        platforms = os.environ.get("JAX_PLATFORMS", "")
        if platforms:
            return UserError(
                f"JAX cannot use {platforms!r} here, which the environment variable JAX_PLATFORMS asks "
                "for; unset it to take what there is, or install JAX for that hardware"
            )
        return UserError(f"JAX finds no device to compute on: {text or 'no reason is given'}")
    return None


def _requested_size(text: str) -> str:
    """The size of the allocation that failed, where the message says so."""
    match = _REQUESTED.search(text)
    if not match:
        return ""
    size = f"{int(match[1]) / 1e9:,.1f} GB" if match[2] == "bytes" else f"{match[1]} {match[2]}"
    return f" ({size} at once)"


def has_device() -> bool:
    """Returns True if JAX has a device: some of its refusals are assertions without a message."""
    import jax  # here: sentences about files need no JAX

    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):
        return False


def host_bytes() -> int:
    """The size of the host's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def device_bytes() -> int | None:
    """The size of the first device's memory, which is the host's for a CPU; None where it is not known."""
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        return host_bytes()
    return (device.memory_stats() or {}).get("bytes_limit")
