"""From the worker's thread to the sockets of all pages: each has a queue of its own, and none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from bvjax.studio.making import Event

LONGEST_QUEUE = 400  # messages; a page that is further behind begins anew


class Listener:
    """The queue of one page, and the runs that it watches."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self.runs: frozenset[str] = frozenset()

    def give(self, event: Event) -> None:
        """Puts an event into the queue; where that is full it ends with None.  Of previews the newest is enough."""
        if event.message["type"] == "preview" and self.queue.qsize() > 8:
            return
        if self.queue.qsize() > LONGEST_QUEUE:
            while not self.queue.empty():
                self.queue.get_nowait()
            self.queue.put_nowait(None)
            return
        self.queue.put_nowait(event)

    def watch(self, runs: Iterable[str]) -> None:
        self.runs = frozenset(runs)


class Hub:
    """All pages that listen; `tell` may be called from any thread, everything else from the loop's."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: set[Listener] = set()

    def begin(self) -> None:
        """Takes the running loop as the one that listeners live in."""
        self._loop = asyncio.get_running_loop()

    def tell(self, event: Event) -> None:
        """Hands an event on to those whom it concerns; before `begin`, and after the loop's end, to nobody."""
        if self._loop is not None and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._give, event)
            except RuntimeError:  # closed in between
                pass

    def add(self, listener: Listener) -> None:
        self._listeners.add(listener)

    def remove(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def __len__(self) -> int:
        return len(self._listeners)

    def _give(self, event: Event) -> None:
        for listener in self._listeners:
            if event.run is None or event.run in listener.runs:
                listener.give(event)
