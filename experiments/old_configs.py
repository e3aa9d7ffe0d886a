"""Configurations as earlier versions wrote them: files of runs, and words of the command line.

The model was a preset and a list of texts ("vae.dim=8"); now it is a section like the others.  Both are read for
one release more.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from bvjax import old_names
from bvjax.errors import UserError
from bvjax.overrides import apply_overrides, to_dict
from bvjax.presets import get_preset

HINT = "preset and overrides are now the section model (model.vae.dim=8); they are read for one more release"


def up_to_date(content: Mapping[str, Any], warn: bool = True) -> dict[str, Any]:
    """A config's content under the names of now, without anything that no version has written.

    Args:
        content: sections within each other.
        warn: whether to warn of old names.

    Raises:
        UserError: an unknown preset, or overrides that are none of its model.
    """
    content = dict(content)
    if "preset" in content and "model" not in content:
        overrides = content.pop("overrides", ())
        if not isinstance(overrides, list | tuple) or not all(
            isinstance(o, str) for o in overrides
        ):
            raise UserError(f"overrides is {overrides!r}; it must be a list like ('vae.dim=8',)")
        preset = content.pop("preset")
        content["model"] = to_dict(apply_overrides(get_preset(preset), overrides))
        if warn:
            logging.warning("%s", HINT)
    return old_names.up_to_date(content, warn)


def words_of_now(words: list[str]) -> tuple[list[str], list[str]]:
    """The words of a command with old keys of a config under their new names, and a line about each of these.

    Raises `UserError` as `up_to_date`.
    """
    renamed = {f"config.{old}": f"config.{new}" for old, new in old_names.RENAMED.items()}
    rest, preset, overrides, hints = [], [], [], []
    remaining = iter(words)
    for word in remaining:
        flag, equals, value = word.partition("=")
        name = flag.lstrip("-") if flag.startswith("-") else ""
        if name in renamed:
            rest.append(f"--{renamed[name]}{equals}{value}")
            hints.append(f"{name} is now called {renamed[name]}")
        elif name in ("config.preset", "config.overrides"):
            value = value if equals else next(remaining, "")
            if name == "config.preset":
                preset += _words("", to_dict(get_preset(value), lists=False))
            else:
                overrides += [f"--config.model.{each}" for each in _texts(value)]
            hints.append(HINT)
        else:
            rest.append(word)
    return [*rest, *preset, *overrides], list(dict.fromkeys(hints))


def _words(where: str, section: Mapping[str, Any]) -> Iterator[str]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _words(f"{where}{key}.", value)
        else:
            yield f"--config.model.{where}{key}={value}"


def _texts(value: str) -> list[str]:
    """The texts of `('vae.dim=8', 'vae.z_dim=4')`, or of one without quotes."""
    try:
        texts = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        texts = value
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"overrides is {value}; it must be a list like ('vae.dim=8',)")
    return [*texts]
