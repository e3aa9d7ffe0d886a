"""A folder that gets all of its new files, or none: they are made out of sight and moved at the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from bvjax.errors import UserError

NAME_BYTES = 255  # of a file's name, on all common file systems
_PREFIX, _SUFFIX = ".unfinished-", ".tmp"


def check_place(folder: Path, names: Iterable[str]) -> Path:
    """Whether files of these names ("transformer/config.json") can be written into `folder`.

    Returns the folder, or the nearest one above it that is there.

    Raises:
        UserError: something else is in the way, or the place cannot be written to.
    """
    there: dict[Path, None] = {}  # in order, each once
    for name in names:
        path = folder / name
        long = next((part for part in path.parts if len(os.fsencode(part)) > NAME_BYTES), None)
        if long is not None:
            size = len(os.fsencode(long))
            raise UserError(
                f"cannot write to {folder}: {long[:20]}... is a name of {size} bytes; it can have "
                f"{NAME_BYTES}"
            )
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder; a file is to be written there")
        for inner in [folder / part for part in Path(name).parents][:-1]:
            if inner.is_symlink():  # perhaps to another disk, where nothing can be moved to
                raise UserError(f"{inner} is a link; a folder is to be written to there")
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


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes what `staged` left in `folder` when its process was killed; returns what it was."""
    dead = []
    for path in sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}")):
        with contextlib.suppress(OSError), _opened(path) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while a process works there
            shutil.rmtree(path)
            dead.append(path)
    return dead


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
        stage = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX, dir=folder))
        with _opened(stage) as handle:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield stage
            _move(stage, folder)
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for empty in made:
            with contextlib.suppress(OSError):  # not empty: all went well
                empty.rmdir()


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A handle of a folder, whose locks the system gives back even after kill -9."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


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
