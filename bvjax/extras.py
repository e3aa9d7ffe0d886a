"""The optional part of the installation that a missing package belongs to (`pip install 'bvjax[...]'`)."""

from __future__ import annotations

import importlib.metadata

from packaging.requirements import Requirement

IMPORTED_AS = {
    "opencv-python-headless": "cv2",
    "orbax-checkpoint": "orbax",
    "scenedetect-headless": "scenedetect",
    "tensorflow-datasets": "tensorflow_datasets",
}  # where the name of a package is not that of its module


def extra_of(module: str) -> str | None:
    """Returns the first extra that brings `module` (a top-level name), None if none does."""
    for line in importlib.metadata.requires("bvjax") or ():
        requirement = Requirement(line)
        if IMPORTED_AS.get(requirement.name, requirement.name) != module or not requirement.marker:
            continue
        for extra in importlib.metadata.metadata("bvjax").get_all("Provides-Extra") or ():
            if requirement.marker.evaluate({"extra": extra}):
                return extra
    return None
