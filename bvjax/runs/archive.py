"""archive/ of a run folder: what `redo` replaced, in a numbered folder each time."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable

from bvjax.files import cannot_write
from bvjax.plain_text import whole_number


def new_archive(run: pathlib.Path) -> pathlib.Path:
    """Makes a folder in the archive of a run folder, numbered one above the largest."""
    folder = run / "archive"
    try:
        folder.mkdir(exist_ok=True)
        numbers = [whole_number(path.name) for path in folder.iterdir()]
        number = 1 + max([n for n in numbers if n is not None], default=0)
        archive = folder / f"{number:03d}"
        archive.mkdir()
    except OSError as error:
        raise cannot_write(folder, error) from None
    return archive


def move(run: pathlib.Path, paths: Iterable[pathlib.Path], archive: pathlib.Path) -> None:
    """Moves files of a run folder to the same places below `archive`."""
    for path in paths:
        target = archive / path.relative_to(run)
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)
