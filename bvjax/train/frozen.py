"""Parameters that training leaves as they are: checkpoints hold their hash in place of them."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from bvjax import weights
from bvjax.errors import UserError
from bvjax.train.task import Params, State, Task, shapes_of


@runtime_checkable
class KeepsFrozen(Protocol):
    """A task whose state has a part that no step changes: what the run started from."""

    def without_frozen(self, state: State) -> Any:
        """The state as checkpoints hold it."""

    def with_frozen(self, state: Any, params: Params) -> State:
        """The state of a checkpoint with that part again (traceable)."""


def hash_of(params: Params) -> str:
    """SHA-256 over the names, shapes and values of parameters, in hexadecimal."""
    digest = hashlib.sha256()
    for name, leaf in sorted(weights.flatten(params).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def check_frozen(wanted: str, params: Params) -> None:
    """Raises `UserError` unless the parameters have the hash that a checkpoint holds."""
    found = hash_of(params)
    if found != wanted:
        raise UserError(
            f"the weights in `init_from` are not those that this run began with (their SHA-256 is {found[:12]}..., not "
            f"{wanted[:12]}...): give those, which stay as they are and are not in its checkpoints"
        )


def saved_part(task: Task, state: State) -> Any:
    """The state, or its shapes, as checkpoints hold it."""
    return task.without_frozen(state) if isinstance(task, KeepsFrozen) else state


def completed(task: Task, state: Any, params: Params) -> State:
    """The state of a checkpoint without its frozen part, placed with it on the devices of the task."""
    assert isinstance(task, KeepsFrozen)
    where = task.shardings(shapes_of(task, params))
    return jax.jit(task.with_frozen, out_shardings=where)(state, params)
