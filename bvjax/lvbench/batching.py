"""Batches of one size for the device, gathered from the frames of many videos."""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bvjax.sharding import Layout

MAX_BATCHES_IN_FLIGHT = 2  # batches that a device may be behind: their frames take memory


class _Batch:
    """The result of one batch, fetched from the device when the first of its rows is read."""

    def __init__(self, on_device: Any):
        self._on_device, self._fetched = on_device, None

    def wait(self) -> None:
        """Blocks until the device has computed the batch."""
        if self._on_device is not None:
            jax.block_until_ready(self._on_device)

    def row(self, index: int) -> Any:
        if self._fetched is None:
            self._fetched = jax.device_get(self._on_device)
            self._on_device = None
        return jax.tree.map(lambda x: x[index], self._fetched)


class PendingResult:
    """The future result of one item; reading it sends the batch that holds the item."""

    def __init__(self, flush: Callable[[], None]):
        self._flush = flush
        self._batch: _Batch | None = None
        self._row = 0
        self._error: Exception | None = None

    def value(self) -> Any:
        """Returns the function's output for this item, a pytree of NumPy arrays without a batch axis."""
        if self._batch is None and self._error is None:
            self._flush()
        if self._error is not None:  # the batch failed: each of its items raises
            raise self._error
        return self._batch.row(self._row)


class Batcher:
    """Calls fn(params, *batches) on batches of `size` items, sharded over the mesh's `data` axis.

    Each row of a result must depend on its own item alone, so that neither the batch size nor the
    number of devices changes it.  Items of different shapes wait in different queues; a batch that
    is not full is filled with its last item.
    """

    def __init__(
        self, fn: Callable[..., Any], params: Any, size: int, layout: Layout | None = None
    ):
        layout = layout or Layout()
        devices = layout.size("data")
        self._size = math.ceil(size / devices) * devices
        self._params = jax.device_put(params, layout.sharding())
        self._layout, self._jitted_fn = layout, jax.jit(fn)
        self._in_flight: collections.deque[_Batch] = collections.deque()
        self._queues: dict[Any, list[tuple[tuple[np.ndarray, ...], PendingResult]]] = {}

    def submit(self, *items: np.ndarray) -> PendingResult:
        """Adds an item (one array per batch, without the batch axis); a full batch is sent."""
        key = tuple((item.shape, item.dtype.str) for item in items)
        queue = self._queues.setdefault(key, [])
        pending = PendingResult(lambda: self._send(key))
        queue.append((items, pending))
        if len(queue) == self._size:
            self._send(key)
        return pending

    def _send(self, key: Any) -> None:
        queue = self._queues.pop(key, [])
        if not queue:
            return
        rows = [items for items, _ in queue]
        rows += [rows[-1]] * (self._size - len(rows))
        sharding = self._layout.sharding("data")
        batches = [jax.device_put(np.stack(column), sharding) for column in zip(*rows, strict=True)]
        if len(self._in_flight) == MAX_BATCHES_IN_FLIGHT:
            with contextlib.suppress(Exception):  # its items raise it when they are read
                self._in_flight.popleft().wait()
        try:
            batch, error = _Batch(self._jitted_fn(self._params, *batches)), None
            self._in_flight.append(batch)
        except Exception as exception:
            batch, error = None, exception
        for row, (_, pending) in enumerate(queue):
            pending._batch, pending._row, pending._error = batch, row, error
