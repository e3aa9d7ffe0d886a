"""A run's folder belongs to one config: config.json says which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bvjax.errors import UserError
from bvjax.files import read_json_object, write_atomic

# Keys that may differ when a run is resumed: how long and how often, not what is learned from what.
FREE = (
    "train.steps", "train.log_every", "train.sample_every", "train.checkpoint_every", "train.keep",
    "train.mesh", "data.cache_dir",
)  # fmt: skip


def claim(workdir: Path, config: dict[str, Any]) -> None:
    """Makes `workdir` the folder of `config`, or checks that it is.

    Raises:
        UserError: the folder cannot be written, or holds a run with another config; the message has
            the keys that differ, with both values.
    """
    path = workdir / "config.json"
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    if path.exists():
        old = flat(read_json_object(path))
        new = flat(json.loads(json.dumps(config)))
        keys = sorted(k for k in {*old, *new} - {*FREE} if old.get(k) != new.get(k))
        if keys:
            listed = "; ".join(f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in keys)
            raise UserError(f"{workdir} holds a run with another config: {listed}")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}") from None


def flat(config: dict[str, Any], where: str = "") -> dict[str, Any]:
    """{"train.steps": 100, ...}."""
    leaves = {}
    for key, value in config.items():
        name = f"{where}{key}"
        leaves |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return leaves
