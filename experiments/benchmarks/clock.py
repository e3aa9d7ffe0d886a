"""What a benchmark measures of its own process."""

from __future__ import annotations

import collections
import contextlib
import resource
import sys
import time
from collections.abc import Iterator


class Clock:
    """Seconds by part."""

    def __init__(self):
        self.seconds: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


def peak_gigabytes() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
