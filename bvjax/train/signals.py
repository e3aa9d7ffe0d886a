"""SIGTERM and SIGINT as a request to stop after the current step."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np


class StopRequest:
    """Context manager; `.signum` is the signal that asked to stop, or None.

    A second SIGINT is not caught: it interrupts at once.
    """

    def __init__(self, signums: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)):
        self.signum: int | None = None
        self.signums = signums
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self._previous = {s: signal.signal(s, self._request) for s in self.signums}
        return self

    def __exit__(self, *exc) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def votes(self) -> np.ndarray:
        """1 for the signal that asked, 0 for the others: int32 in the order of `signums`."""
        return np.array([signum == self.signum for signum in self.signums], np.int32)

    def _request(self, signum: int, frame) -> None:
        del frame
        self.signum = signum
        signal.signal(signal.SIGINT, signal.default_int_handler)
