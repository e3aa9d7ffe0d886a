"""SIGTERM and SIGINT as a request to stop after the current step."""

from __future__ import annotations

import signal


class StopRequest:
    """Context manager; `.signum` is the signal that asked to stop, or None.

    A second SIGINT is not caught: it interrupts at once.
    """

    def __init__(self, signums: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)):
        self.signum: int | None = None
        self._signums = signums
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        self._previous = {s: signal.signal(s, self._request) for s in self._signums}
        return self

    def __exit__(self, *exc) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _request(self, signum: int, frame) -> None:
        del frame
        self.signum = signum
        signal.signal(signal.SIGINT, signal.default_int_handler)
