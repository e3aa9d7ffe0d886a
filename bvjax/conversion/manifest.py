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


class ManifestEntry(NamedTuple):
    """One part."""

    model: ModelConfig
    metadata: dict[str, Any]  # all that is stored


def read(folder: Path) -> dict[str, ManifestEntry]:
    """The parts of an export, {} where there is no manifest; raises `UserError` for a damaged one."""
    path = folder / NAME
    if not path.is_file():
        return {}
    parts = read_json_object(path).get("parts")
    if not isinstance(parts, dict) or not set(parts) <= set(PARTS):
        raise UserError(
            f"{path} is no manifest of an export: it needs parts among {', '.join(PARTS)}"
        )
    return {part: _entry(path, part, metadata) for part, metadata in parts.items()}


def find(path: Path) -> tuple[Path, dict[str, ManifestEntry]]:
    """Returns (path, parts) of the manifest in the folder of a file, or in the one above."""
    for folder in (path.parent, path.parent.parent):
        if (folder / NAME).is_file():
            return folder / NAME, read(folder)
    return path.parent / NAME, {}


def check_metadata(path: Path, part: str, metadata: Any) -> dict[str, Any]:
    """Reads the stored provenance of a part; raises `UserError` when it is not valid."""
    problem = None
    if not isinstance(metadata, dict):
        problem = "is no object"
    elif metadata.get("stage") not in (None, *STAGES):
        problem = f"has the stage {str(metadata['stage'])[:40]!r}; it can be {', '.join(STAGES)}"
    elif not isinstance(metadata.get("sampler"), str | None):
        problem = "has a sampler that is no word"
    elif not isinstance(metadata.get("lora", []), list):
        problem = "has a lora that is no list"
    if problem:
        raise UserError(f"{path} is damaged: {part} {problem}")
    return metadata


def _entry(path: Path, part: str, metadata: Any) -> ManifestEntry:
    model = check_metadata(path, part, metadata).get("model")
    if not isinstance(model, Mapping):
        raise UserError(f"{path} is damaged: {part} has no model")
    try:
        return ManifestEntry(from_dict(ModelConfig, model), metadata)
    except UserError as error:
        raise UserError(f"{path} is damaged: {part}: {error}") from None
