"""Orbax checkpoints: the training state, the data iterator's position and the run's plan, written as one unit.

Beside each lie the checksums of its files. What is restored has been compared with them, so that a file that
was cut, lost or changed is named, and the run goes on from the checkpoint before. On an object store, which has
checksums of its own, it is their sizes.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from bvjax.distributed import exchange
from bvjax.errors import UserError
from bvjax.files import read_json_object, sha256_of, write_json
from bvjax.plain_text import whole_number
from bvjax.stores import AnyPath, as_path, is_store, relative_files
from bvjax.train.plan import Plan
from bvjax.train.task import DataIterator, State

CHECKSUMS = "checksums.json"
DATA = "data/metadata"  # where Orbax writes the JSON item "data"
COMMITTED = "commit_success.txt"  # what it writes last on an object store


class Checkpoints:
    """Writes the checkpoints of one run; the newest `keep` stay.

    Orbax renames a finished checkpoint into place, or on an object store writes a last file into it, so one cut short
    by a crash is never found.
    """

    def __init__(self, folder: AnyPath, keep: int):
        # On CPU Orbax would write from the very buffers that the next, donating step overwrites.
        asynchronous = jax.default_backend() != "cpu"
        self._folder = _absolute(folder)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=asynchronous
            ),
        )
        self._unsealed: int | None = None

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: State,
        data_state: Any,
        plan: Plan | None = None,
        wall_time: Any = None,
        frozen: str | None = None,
    ) -> None:
        """Saves unless this step is there already; `data_state` is JSON-able or bytes, `wall_time` JSON-able.

        `frozen` is the hash of what `state` lacks, see `bvjax.train.frozen`.
        """
        if step == self.latest:
            return
        self._seal()
        content = _pack(data_state)
        if plan is not None:
            content["plan"] = dataclasses.asdict(plan)
        if wall_time is not None:
            content["wall_time"] = wall_time
        if frozen is not None:
            content["frozen"] = frozen
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(content)
            ),
        )
        self._unsealed = step
        if not self._manager.is_saving_in_progress():
            self._seal()

    def close(self) -> None:
        """Waits for the checkpoint being written."""
        self._seal()
        self._manager.close()

    def _seal(self) -> None:
        """Writes the checksums of the last checkpoint, once it is whole."""
        self._manager.wait_until_finished()
        step, self._unsealed = self._unsealed, None
        if step is not None and jax.process_index() == 0:
            folder = self._folder / str(step)
            write_json(folder / CHECKSUMS, {name: _sum(folder / name) for name in _files(folder)})


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint as it lies on disk, its state not read yet."""

    step: int
    folder: AnyPath
    sealed: bool  # its files are those that were written; without checksums nobody knows
    data_state: Any
    plan: Plan | None  # None: older checkpoints do not hold it
    wall_time: Any = None  # as `WallTime.record` made it, unchecked
    frozen: str | None = None  # the hash of parameters that are not in its state; None: all are

    @property
    def unchecked(self) -> str | None:
        """The checks that could not be made, None when all were."""
        lacks = []
        if not self.sealed:
            lacks.append(
                "no checksums (whether its numbers are those that were written is not known)"
            )
        if self.plan is None:
            lacks.append("no plan (its schedule is that of the steps in config.json)")
        return f"checkpoint {self.folder} has {' and '.join(lacks)}" if lacks else None


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint with its state."""

    state: State
    saved: Saved
    damaged: dict[int, str]  # newer checkpoints, and what is wrong with each


def steps_of(folder: AnyPath) -> list[int]:
    """Steps of all checkpoints in `folder`, newest first; raises `UserError` where it is a file."""
    folder = as_path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; checkpoints are kept in a folder")
    names = [p.name for p in folder.iterdir() if _whole(p)] if folder.is_dir() else []
    steps = [step for name in names if (step := whole_number(name)) is not None]
    return sorted((step for step in steps if str(step) in names), reverse=True)


def restore_newest(
    folder: AnyPath,
    like: State | Callable[[Saved], State],
    data: DataIterator | None = None,
    accept: Callable[[Saved], Any] = lambda saved: None,
) -> Restored:
    """The newest intact checkpoint in `folder`; nothing is written.

    Args:
        like: gives shapes, dtypes and shardings (`jax.ShapeDtypeStruct` leaves), or is what does so of a checkpoint.
        data: is put where it stood.
        accept: called before the state is read; raises for a checkpoint that must not be gone on from.

    Raises:
        UserError: no checkpoint is intact, or the newest that is does not fit `like`.
    """
    damaged: dict[int, str] = {}
    for step in exchange.on_main(lambda: steps_of(folder)):
        try:
            saved = _open_everywhere(as_path(folder) / str(step), step)
            accept(saved)
            state = _read_state(saved, like(saved) if callable(like) else like)
            if data is not None:
                set_state = functools.partial(data.set_state, saved.data_state)
                _reading(saved, "its data position", set_state)
            return Restored(state, saved, damaged)
        except _Damaged as error:
            damaged[step] = str(error)
    reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items()) or "there is none"
    raise UserError(f"no checkpoint in {folder} is intact ({reasons}); use another `workdir`")


def set_aside(folder: AnyPath, steps: list[int]) -> None:
    """Renames damaged checkpoints to STEP.damaged, where no run takes them for its own."""
    if jax.process_index() != 0:
        return
    folder = as_path(folder)
    for step in steps:
        count = len(list(folder.glob(f"{step}.damaged*")))
        name = f"{step}.damaged" + (f".{count + 1}" if count else "")
        (folder / str(step)).rename(folder / name)


class _Damaged(Exception):
    """A checkpoint is not what was written; the message says which file."""


def _open_everywhere(folder: AnyPath, step: int) -> Saved:
    """`_open`, whose files process 0 alone compares with their checksums: all processes go on from one checkpoint."""

    def verdict() -> str | None:
        try:
            _open(folder, step)
        except _Damaged as error:
            return str(error)
        return None

    if jax.process_count() == 1:
        return _open(folder, step)
    reason = exchange.on_main(verdict)
    if reason is not None:
        raise _Damaged(reason)
    return _open(folder, step, compare=False)


def _open(folder: AnyPath, step: int, compare: bool = True) -> Saved:
    names = _files(folder)
    sealed = (folder / CHECKSUMS).exists()
    try:
        sums = read_json_object(folder / CHECKSUMS) if sealed else {}
        if sealed and DATA not in sums:
            raise _Damaged(f"{CHECKSUMS} does not name {DATA}")
        for name, checksum in sums.items():
            if name not in names:
                raise _Damaged(f"{name} is missing")
            if compare and _sum(folder / name) != checksum:
                raise _Damaged(f"{name} is not what was written")
        content = read_json_object(folder / DATA)
        plan = Plan.parse(content["plan"]) if "plan" in content else None
        frozen = content.get("frozen")
        if not isinstance(frozen, str | None):
            raise _Damaged(f"{DATA} has a hash that is not text")
        wall_time = content.get("wall_time")
        return Saved(step, folder, sealed, _unpack(content), plan, wall_time, frozen)
    except (UserError, OSError, KeyError, binascii.Error) as error:
        raise _Damaged(f"{DATA} lacks {error}" if isinstance(error, KeyError) else error) from None


def _read_state(saved: Saved, like: State) -> State:
    def read():
        with ocp.StandardCheckpointer() as reader:
            return reader.restore(_absolute(saved.folder) / "state", like)

    state = _reading(saved, "its state", read)
    # Checksums say that it is what was written, not that this was right.
    if int(state.step) != saved.step:
        raise _Damaged(f"its state is that of step {int(state.step)}")
    if not _finite(state):
        raise _Damaged("its state is not finite")
    return state


def _reading(saved: Saved, part: str, read: Callable[[], Any]) -> Any:
    """Returns what `read` returns; when it fails the checkpoint is damaged or, if it is sealed, of something else."""
    try:
        return read()
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # Orbax, TensorStore and Grain raise all kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if not saved.sealed:
            raise _Damaged(f"{part} cannot be read: {reason}") from None
        raise UserError(
            f"checkpoint {saved.folder} is intact, but {part} does not fit this config: {reason}"
        ) from None


@jax.jit
def _finite(state: State) -> jax.Array:
    numbers = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all() for x in numbers]).all()


def _whole(checkpoint: AnyPath) -> bool:
    """Returns whether Orbax has finished writing it; on a disk it has no such name before."""
    if not is_store(checkpoint):
        return checkpoint.is_dir()
    return (checkpoint / COMMITTED).exists()


def _files(folder: AnyPath) -> list[str]:
    return [name for name in relative_files(folder) if name != CHECKSUMS]


def _sum(path: AnyPath) -> str:
    # Reading a whole checkpoint back takes longer than writing it, and Google's storage compares what it hands out with
    # sums of its own: what is left to be noticed there are files that are missing or of another checkpoint.
    if isinstance(path, Path):
        return sha256_of(path)
    return f"{path.stat().length} bytes"


def _absolute(folder: AnyPath) -> AnyPath:
    return folder if is_store(folder) else as_path(folder).absolute()


def _pack(data_state: Any) -> dict[str, Any]:
    if isinstance(data_state, bytes):
        return {"base64": base64.b64encode(data_state).decode("ascii")}
    return {"json": data_state}


def _unpack(packed: dict[str, Any]) -> Any:
    if "base64" not in packed:
        return packed["json"]
    if not isinstance(packed["base64"], str):
        raise UserError(f"{DATA} has a data position that is not text")
    return base64.b64decode(packed["base64"].encode(), validate=True)
