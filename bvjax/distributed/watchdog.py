"""A watch over a loop that must go on: when it stands still, every thread's stack is printed and the process ends."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

import jax


class Watchdog:
    """Context manager; `beat` says that the loop goes on.

    Only a process that was ended by it tells where it hung, and those that waited for it tell where they waited: each
    process watches itself, and all of them stand still when one does.
    """

    def __init__(
        self,
        limit: float,
        code: int,
        out: TextIO | None = None,
        leave: Callable[[int], object] = os._exit,
    ):
        """Watches for `limit` seconds without `beat` (0: never), then leaves with the exit code `code`."""
        self._limit, self._code = limit, code
        self._out, self._leave = out, leave
        self._last, self._what = time.monotonic(), "the start"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.beat("the first step")
        if self._limit > 0:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def beat(self, what: str) -> None:
        """The loop goes on with `what`."""
        self._last, self._what = time.monotonic(), what

    def _watch(self) -> None:
        while not self._done.wait(min(self._limit / 10, 5.0)):
            still = time.monotonic() - self._last
            if still > self._limit:
                out = self._out or sys.stderr
                print(
                    f"process {jax.process_index()}: {self._what} takes longer than {self._limit:g} s "
                    f"(train.hang_seconds); all threads:",
                    file=out,
                    flush=True,
                )
                faulthandler.dump_traceback(file=out, all_threads=True)
                out.flush()
                self._leave(self._code)
                return
