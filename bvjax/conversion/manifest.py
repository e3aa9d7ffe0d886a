"""manifest.json: what made each part of an export, and which model it is, for the way back.

{"parts": {"dit": {"model": {...}, "stage": "stage1", "source": {...}, ...}, ...}}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.files import read_json_object
from bvjax.overrides import from_dict
from bvjax.stages import STAGES
from bvjax.weights import PARTS

NAME = "manifest.json"


class Entry(NamedTuple):
    """One part."""

    model: ModelConfig
    about: dict[str, Any]  # all that is stored


def read(folder: Path) -> dict[str, Entry]:
    """The parts of an export, {} where there is no manifest; raises `UserError` for a damaged one."""
    path = folder / NAME
    if not path.is_file():
        return {}
    parts = read_json_object(path).get("parts")
    if not isinstance(parts, dict) or not set(parts) <= set(PARTS):
        raise UserError(
            f"{path} is no manifest of an export: it needs parts among {', '.join(PARTS)}"
        )
    return {part: _entry(path, part, about) for part, about in parts.items()}


def beside(path: Path) -> tuple[Path, dict[str, Entry]]:
    """(its path, the parts) of the manifest in the folder of a file or in the one above."""
    for folder in (path.parent, path.parent.parent):
        if (folder / NAME).is_file():
            return folder / NAME, read(folder)
    return path.parent / NAME, {}


def check_about(path: Path, part: str, about: Any) -> dict[str, Any]:
    """Reads the stored provenance of a part; raises `UserError` when it is not valid."""
    wrong = None
    if not isinstance(about, dict):
        wrong = "is no object"
    elif about.get("stage") not in (None, *STAGES):
        wrong = f"has the stage {str(about['stage'])[:40]!r}; it can be {', '.join(STAGES)}"
    elif not isinstance(about.get("lora", []), list):
        wrong = "has a lora that is no list"
    if wrong:
        raise UserError(f"{path} is damaged: {part} {wrong}")
    return about


def _entry(path: Path, part: str, about: Any) -> Entry:
    model = check_about(path, part, about).get("model")
    if not isinstance(model, Mapping):
        raise UserError(f"{path} is damaged: {part} has no model")
    try:
        return Entry(from_dict(ModelConfig, model), about)
    except UserError as error:
        raise UserError(f"{path} is damaged: {part}: {error}") from None
