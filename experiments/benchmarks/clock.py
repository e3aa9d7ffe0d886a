"""Measures of a benchmark's own process and device."""

from __future__ import annotations

import collections
import contextlib
import resource
import sys
import time
from collections.abc import Iterator


class Clock:
    """Seconds by part: the sum in `seconds`, each time in `each`."""

    def __init__(self):
        self.seconds: collections.Counter[str] = collections.Counter()
        self.each: dict[str, list[float]] = collections.defaultdict(list)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        passed = time.perf_counter() - start
        self.seconds[name] += passed
        self.each[name].append(passed)


def peak_gigabytes() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


def device_gigabytes() -> float | None:
    """Most memory in use on the default device so far; None where it does not tell (CPUs)."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    return stats["peak_bytes_in_use"] / 1e9 if "peak_bytes_in_use" in stats else None
