"""Configuration keys by their old names, and keys that came later: what was written before is still read.

Each row is kept for one release after the change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import logging

from bvjax.errors import UserError

RENAMED = {  # old: new
    "forcing.rounds": "forcing.targets_per_chunk",
    "forcing.returns": "forcing.revisit_fraction",
    "forcing.described": "forcing.standalone",
}
_SHOWN = {"block.cond_source": "shown"}
# By task: keys that came together and that its configs had none of before, with the values that say what was done then.
ADDED: dict[str, tuple[dict[str, Any], ...]] = {
    "dit": ({"data.name": "storyworld", "data.extras": ["relevance", "standalone"]}, _SHOWN),
    "consistency": (_SHOWN,),
    "ode": (_SHOWN,),
    "self_forcing": (_SHOWN,),
}


def up_to_date(config: Mapping[str, Any], warn: bool = True) -> dict[str, Any]:
    """A nested configuration under the names of now, complete if it was so when it was written.

    Args:
        config: sections within each other; its `task` says which keys are added.
        warn: whether to warn of old names.

    Raises:
        UserError: a key is given by both names.
    """
    result = _copy(config)
    for old, new in RENAMED.items():
        section, key = _section(result, old)
        if section is None or key not in section:
            continue
        value = section.pop(key)
        section, key = _section(result, new, make=True)
        if key in section:
            raise UserError(f"{old} is the old name of {new}, and both are given; give {new} alone")
        section[key] = value
        if warn:
            logging.warning(
                "%s is now called %s; its old name is read for one more release", old, new
            )
    for keys in ADDED.get(str(result.get("task")), ()):
        added = [(*_section(result, path), value) for path, value in keys.items()]
        if all(section is not None and key not in section for section, key, _ in added):
            for section, key, value in added:
                section[key] = value
    return result


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _section(config: dict[str, Any], path: str, make: bool = False) -> tuple[Any, str]:
    """The section that a dotted key is in and its name there; no section where there is none."""
    *parents, key = path.split(".")
    section: Any = config
    for name in parents:
        section = section.setdefault(name, {}) if make else section.get(name)
        if not isinstance(section, dict):
            return None, key
    return section, key
