"""Orbax checkpoints: the training state and the data iterator's position, written as one unit."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from bvjax.train.state import TrainState


class Checkpoints:
    """The checkpoints of one run; the newest `keep` stay.

    Orbax renames a finished checkpoint into place, so one cut short by a crash is never found.
    """

    def __init__(self, folder: Path, keep: int):
        # On CPU Orbax would write from the very buffers that the next, donating step overwrites.
        asynchronous = jax.default_backend() != "cpu"
        self._manager = ocp.CheckpointManager(
            Path(folder).absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=asynchronous
            ),
        )

    @property
    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data_state: Any) -> None:
        """Saves unless this step is there already; `data_state` is JSON-able or bytes."""
        if step == self.latest:
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(_pack(data_state))
            ),
        )

    def restore(self, like: TrainState) -> tuple[TrainState, Any]:
        """The newest checkpoint as (state, data state).

        `like` gives shapes, dtypes and shardings (`jax.ShapeDtypeStruct` leaves).
        """
        restored = self._manager.restore(
            self.latest,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()
            ),
        )
        return restored["state"], _unpack(restored["data"])

    def close(self) -> None:
        """Waits for the checkpoint being written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _pack(data_state: Any) -> dict[str, Any]:
    if isinstance(data_state, bytes):
        return {"base64": base64.b64encode(data_state).decode("ascii")}
    return {"json": data_state}


def _unpack(packed: dict[str, Any]) -> Any:
    if "base64" in packed:
        return base64.b64decode(packed["base64"])
    return packed["json"]
