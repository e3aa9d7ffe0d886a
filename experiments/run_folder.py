"""A run's folder belongs to one config: config.json says which."""

from __future__ import annotations

import errno
import json
import os
import secrets
from pathlib import Path
from typing import Any

from bvjax.errors import UserError
from bvjax.files import parse_json, read_json_object, write_atomic
from bvjax.overrides import defaults
from bvjax.plain_text import shown
from bvjax.stores import AnyPath, is_store
from experiments.experiment import EXPERIMENTS
from experiments.old_configs import up_to_date

# Keys that may differ when a run is resumed: how long and how often, not what is learned from what.
FREE = (
    "train.steps",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep",
    "train.max_skipped",
    "train.hang_seconds",
    "train.mesh",
    "train.device_batch_size",  # draws are those of examples
    "data.cache_dir",
    # The same loss in less memory or time.
    "model.dit.remat",
    "forcing.targets_at_once",
    "forcing.text_rows",
    "data.max_damaged",
)


def check_same(workdir: AnyPath, config: dict[str, Any]) -> dict[str, Any]:
    """The flat config of the run in `workdir`, {} if there is none; nothing is written.

    Raises:
        UserError: it is another config than `config`; the message has the keys that differ, with both
            values.  Or `config` has numbers that JSON does not have.
    """
    path = workdir / "config.json"
    new = _comparable(parse_json(json.dumps(config), "the config"))
    if not path.exists():
        return {}
    old = _comparable(read_json_object(path))
    keys = sorted(k for k in {*old, *new} - {*FREE} if old.get(k) != new.get(k))
    if keys:
        listed = "; ".join(f"{shown(k)} was {old.get(k)!r}, now {new.get(k)!r}" for k in keys)
        raise UserError(f"{workdir} holds a run with another config: {listed}")
    steps = old.get("train.steps")
    if type(steps) is not int or steps < 0:
        raise UserError(f"{path} is damaged: train.steps is {steps!r}")
    return old


def _comparable(content: dict[str, Any]) -> dict[str, Any]:
    """A flat config under the names of now; keys that came after it was written have what was done then."""
    try:
        content = up_to_date(content, warn=False)
    except UserError:  # it is damaged: what it says is shown as it is
        return flat(content)
    task = content.get("task")
    experiment = EXPERIMENTS.get(task) if isinstance(task, str) else None
    return (flat(defaults(experiment)) if experiment else {}) | flat(content)


def claim(workdir: AnyPath, config: dict[str, Any]) -> None:
    """Makes `workdir` the folder of `config`, or checks that it is.

    config.json stays what the run was begun with: the schedule of older checkpoints is known from it alone.

    Raises:
        UserError: the folder cannot be written, or holds a run with another config, see `check_same`.
    """
    exists = check_same(workdir, config)
    make_writable(workdir)
    if not exists:
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        write_atomic(workdir / "config.json", text.encode())


def make_writable(folder: AnyPath) -> None:
    """Makes a folder where there is none; raises `UserError` where nothing can be written into it."""
    if is_store(
        folder
    ):  # which has no folders, and says only of an object whether it may be written
        _try_object(folder)
        return
    assert isinstance(folder, Path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None


def _try_object(folder: AnyPath) -> None:
    probe = folder / f".{secrets.token_hex(4)}.tmp"
    try:
        write_atomic(probe, b"")
        probe.unlink()
    except Exception as error:  # of the network, of permissions: each library has its own
        raise UserError(f"cannot write to {folder}: {' '.join(str(error).split())[:300]}") from None


def flat(config: dict[str, Any], where: str = "") -> dict[str, Any]:
    """{"train.steps": 100, ...}."""
    leaves = {}
    for key, value in config.items():
        name = f"{where}{key}"
        leaves |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return leaves
