"""A folder that gets all of its new files, or none: they are made out of sight and moved at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from bvjax.errors import UserError

NAME_BYTES = 255  # of a file's name, on all common file systems


def check_place(folder: Path, names: Iterable[str]) -> Path:
    """Whether files of these names ("transformer/config.json") can be written into `folder`.

    Returns the folder, or the nearest one above it that is there.

    Raises:
        UserError: something else is in the way, or the place cannot be written to.
    """
    there: dict[Path, None] = {}  # in order, each once
    for path in (folder / name for name in names):
        long = next((part for part in path.parts if len(os.fsencode(part)) > NAME_BYTES), None)
        if long is not None:
            size = len(os.fsencode(long))
            raise UserError(
                f"cannot write to {folder}: {long[:20]}... is a name of {size} bytes; it can have "
                f"{NAME_BYTES}"
            )
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder; a file is to be written there")
        there[_nearest(path.parent)] = None
    for place in there:
        if not os.path.isdir(place):
            raise UserError(f"{place} is a file; a folder is to be written there")
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise UserError(f"cannot write to {place}: {error.strerror or error}") from None
    return _nearest(folder)


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """An empty folder whose files are moved into `folder` when all is done.

    When anything is raised, of its files and of the folders made for them nothing is left.
    """
    made = []
    outer = folder.absolute()
    while not outer.exists():
        made.append(outer)
        outer = outer.parent
    stage = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Inside, so that moving is renaming on one disk; readers pass over names with a dot.
        stage = Path(tempfile.mkdtemp(prefix=".unfinished-", suffix=".tmp", dir=folder))
        yield stage
        _move(stage, folder)
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for empty in made:
            with contextlib.suppress(OSError):  # not empty: all went well
                empty.rmdir()


def _move(stage: Path, folder: Path) -> None:
    """Files at the top, which describe the others, come last."""
    names = [path.relative_to(stage) for path in stage.rglob("*") if path.is_file()]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for name in sorted(names, key=lambda name: (name.suffix == ".json", -len(name.parts))):
        os.replace(stage / name, folder / name)


def _nearest(path: Path) -> Path:
    """`path`, or the nearest one above it that is there."""
    path = path.absolute()
    while not os.path.lexists(path):
        path = path.parent
    return path
