"""Values between the processes of a run: what process 0 found, in all of them; sharded arrays, whole.

With one process all of these return what they are given.  All processes have to call them in the same order.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bvjax.errors import UserError
from bvjax.files import parse_json

T = TypeVar("T")


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast_bytes(content: bytes) -> bytes:
    """Hands the bytes of process 0 to every process."""
    if jax.process_count() == 1:
        return content
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    padded = np.zeros(length, np.uint8)
    if jax.process_index() == 0:
        padded[:] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8).tobytes()


def broadcast(value: Any) -> Any:
    """Hands a value of process 0, of a kind that JSON has, to every process."""
    if jax.process_count() == 1:
        return value
    return parse_json(broadcast_bytes(json.dumps(value).encode()), "what process 0 sends")


def on_main(work: Callable[[], T]) -> T:
    """Runs `work` in process 0 alone and returns its result, of a kind that JSON has, in all; so is a `UserError` raised."""
    if jax.process_count() == 1:
        return work()
    answer: dict[str, Any] = {}
    failure: Exception | None = None
    if jax.process_index() == 0:
        try:
            answer = {"value": work()}
        except Exception as error:
            failure = error
            answer = {"error": str(error), "user": isinstance(error, UserError)}
    answer = broadcast(answer)
    if failure is not None:
        raise failure
    if "error" in answer:
        raise (UserError if answer["user"] else RuntimeError)(answer["error"])
    return answer["value"]


def whole(tree: Any) -> Any:
    """Arrays on the host, those that are sharded over processes whole; leaf by leaf, None but in process 0."""

    def gather(x: Any) -> Any:
        if not isinstance(x, jax.Array):
            return x
        if not x.is_fully_addressable:
            x = x if x.is_fully_replicated else _replicated(x)
            x = x.addressable_data(0)
        return np.asarray(x) if jax.process_index() == 0 else None

    return jax.tree.map(gather, tree)


def on_host(tree: Any) -> Any:
    """Arrays on the host of every process, those that are sharded over processes whole; leaf by leaf."""

    def gather(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            x = (x if x.is_fully_replicated else _replicated(x)).addressable_data(0)
        return np.asarray(x)

    return jax.tree.map(gather, tree)


def local_copy(tree: Any) -> Any:
    """`tree` whole on the first device of each process."""
    device = jax.local_devices()[0]

    def copy(x: Any) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            x = (x if x.is_fully_replicated else _replicated(x)).addressable_data(0)
        return jax.device_put(x, device)

    return jax.tree.map(copy, tree)


def _replicated(x: jax.Array) -> jax.Array:
    where = x.sharding
    assert isinstance(where, NamedSharding)
    return jax.jit(lambda x: x, out_shardings=NamedSharding(where.mesh, PartitionSpec()))(x)


class Sum:
    """Sums of a few numbers over all processes, made by the devices in their turn: nobody waits for them."""

    def __init__(self) -> None:
        self._devices = jax.devices()
        mesh = Mesh(np.array(self._devices), ("devices",))
        self._where = NamedSharding(mesh, PartitionSpec("devices"))
        self._sum = jax.jit(
            functools.partial(jnp.sum, axis=0), out_shardings=NamedSharding(mesh, PartitionSpec())
        )

    def __call__(self, values: np.ndarray) -> jax.Array | np.ndarray:
        """The sum over processes of int32 `values` [n], which may still be on its way."""
        if jax.process_count() == 1:
            return values
        first = self._devices.index(jax.local_devices()[0])

        def row(index: Any) -> np.ndarray:
            mine = (index[0].start or 0) == first
            return (values if mine else np.zeros_like(values))[None]

        rows = jax.make_array_from_callback((len(self._devices), len(values)), self._where, row)
        return self._sum(rows)
