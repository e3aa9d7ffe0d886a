"""Atomic writing of a folder: files are made in a hidden staging directory and moved at the end."""

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


def check_writable(folder: Path, names: Iterable[str]) -> Path:
    """Checks that files of these names ("transformer/config.json") can be written into `folder`.

    Returns the folder, or the nearest one above it that is there.

    Raises:
        UserError: something else is in the way, or the place cannot be written to.
    """
    parents: dict[Path, None] = {}  # in order, each once
    for name in names:
        path = folder / name
        long_name = next((part for part in path.parts if len(os.fsencode(part)) > NAME_BYTES), None)
        if long_name is not None:
            size = len(os.fsencode(long_name))
            raise UserError(
                f"cannot write to {folder}: {long_name[:20]}... is a name of {size} bytes; it can have "
                f"{NAME_BYTES}"
            )
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder; a file is to be written there")
        for inner in [folder / part for part in Path(name).parents][:-1]:
            if inner.is_symlink():  # perhaps to another disk, where nothing can be moved to
                raise UserError(f"{inner} is a link; a folder is to be written to there")
        parents[_nearest(path.parent)] = None
    for parent in parents:
        if not os.path.isdir(parent):
            raise UserError(f"{parent} is a file; a folder is to be written there")
        try:
            with tempfile.TemporaryFile(dir=parent):
                pass
        except OSError as error:
            raise UserError(f"cannot write to {parent}: {error.strerror or error}") from None
    return _nearest(folder)


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes the staging directories of killed processes from `folder`; returns their paths."""
    removed = []
    for path in sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}")):
        with contextlib.suppress(OSError), _open_folder(path) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while a process works there
            shutil.rmtree(path)
            removed.append(path)
    return removed


@contextlib.contextmanager
def open_staging_dir(folder: Path) -> Iterator[Path]:
    """Yields an empty staging directory whose files are moved into `folder` at the end.

    When anything is raised, of its files and of the folders made for them nothing is left.
    """
    created = []
    parent = folder.absolute()
    while not parent.exists():
        created.append(parent)
        parent = parent.parent
    staging_dir = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Inside, so that moving is renaming on one disk; readers pass over names with a dot.
        staging_dir = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX, dir=folder))
        with _open_folder(staging_dir) as handle:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield staging_dir
            _move(staging_dir, folder)
    finally:
        if staging_dir is not None:
            shutil.rmtree(staging_dir, ignore_errors=True)
        for path in created:
            with contextlib.suppress(OSError):  # not empty: all went well
                path.rmdir()


@contextlib.contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    """Opens a folder; the system releases the locks of its descriptor even after kill -9."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


def _move(staging_dir: Path, folder: Path) -> None:
    """Files at the top, which describe the others, come last."""
    names = [path.relative_to(staging_dir) for path in staging_dir.rglob("*") if path.is_file()]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for name in sorted(names, key=lambda name: (name.suffix == ".json", -len(name.parts))):
        os.replace(staging_dir / name, folder / name)


def _nearest(path: Path) -> Path:
    """`path`, or the nearest one above it that is there."""
    path = path.absolute()
    while not os.path.lexists(path):
        path = path.parent
    return path
