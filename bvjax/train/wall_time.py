"""Time of a run by use: its share in steps (goodput), and in all that is not training.

The count is part of every checkpoint. A run that goes on from one has lost what came after it, steps as well as the
time until it went on, and this counts as `starting`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

# Part -> the name of its share in the metrics.
PARTS = {
    "steps": "goodput",
    "data": "share_waiting_for_data",
    "checkpoints": "share_checkpoints",
    "samples": "share_samples",  # and losses of held-out examples
    "compiling": "share_compiling",  # the first step is traced and compiled
    "starting": "share_starting",  # and restarts, with what they have lost
}


class WallTime:
    """A clock that is in one of `PARTS` at any time; it begins in `starting`.

    `before` is what a checkpoint holds, `record()` of an earlier process; anything else is as if there was none.
    """

    def __init__(
        self,
        before: Any = None,
        now: Callable[[], float] = time.monotonic,
        date: Callable[[], float] = time.time,
    ):
        self._now, self._date = now, date
        self._part, self._since = "starting", now()
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.go_on(before)

    def go_on(self, before: Any) -> None:
        """Adds the time before a checkpoint, and what has passed since it was written as `starting`."""
        if not _is_record(before):
            return
        self.enter("starting")
        here = sum(self.seconds.values())
        for part, seconds in before["seconds"].items():
            self.seconds[part] += seconds
        self.seconds["starting"] += max(self._date() - before["at"] - here, 0.0)

    def enter(self, part: str) -> str:
        """Counts the time from now on as `part`; returns the part before."""
        now, previous = self._now(), self._part
        self.seconds[previous] += now - self._since
        self._part, self._since = part, now
        return previous

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what is done inside as `name`."""
        previous = self.enter(name)
        try:
            yield
        finally:
            self.enter(previous)

    @contextlib.contextmanager
    def waiting_for_data(self, device: DeviceTime) -> Iterator[None]:
        """Counts what is done inside as `data`, but for the time in which the device has a step to do anyway."""
        began = self._now()
        with self.part("data"):
            yield
        busy = min(max(device.done_at(self._now()) - began, 0.0), self._since - began)
        self.seconds["data"] -= busy
        self.seconds["steps"] += busy

    def record(self) -> dict[str, Any]:
        """Returns the part that a checkpoint holds, as JSON has it."""
        self.enter(self._part)
        return {"seconds": dict(self.seconds), "at": self._date()}

    def scalars(self) -> dict[str, float]:
        """Seconds since the run was begun, and the share of each part in them, by its name in the metrics."""
        self.enter(self._part)
        total = sum(self.seconds.values())
        shares = {PARTS[part]: s / max(total, 1e-9) for part, s in self.seconds.items()}
        return {"wall_seconds": total} | shares

    def __str__(self) -> str:
        scalars = self.scalars()
        total = scalars.pop("wall_seconds")
        shares = (
            f"{name.removeprefix('share_').replace('_', ' ')} {100 * share:.1f} %"
            for name, share in scalars.items()
        )
        return f"{total / 60:.1f} minutes: {', '.join(shares)}"


def _is_record(value: Any) -> bool:
    """Returns whether a value from a file is one that `WallTime.record` makes."""
    if not isinstance(value, Mapping) or set(value) != {"seconds", "at"}:
        return False
    seconds = value["seconds"]
    if not isinstance(seconds, Mapping) or set(seconds) != set(PARTS):
        return False
    numbers = [value["at"], *seconds.values()]
    return all(type(x) in (int, float) and math.isfinite(x) and x >= 0 for x in numbers)


class DeviceTime:
    """When the device was done with the last step that it was given: a thread waits for it."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device time")
        self._last: Future[float] | None = None

    def given(self, outputs: Any) -> None:
        """The device was given a step with these outputs."""
        self._last = self._thread.submit(self._wait, outputs)

    def done_at(self, now: float) -> float:
        """When it was done; `now` if it is not."""
        if self._last is None:
            return -math.inf
        return self._last.result() if self._last.done() else now

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _wait(self, outputs: Any) -> float:
        with contextlib.suppress(Exception):  # whoever reads the outputs is told
            jax.block_until_ready(outputs)
        return self._now()
