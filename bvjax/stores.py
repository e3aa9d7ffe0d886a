"""Google Cloud Storage (`gs://BUCKET/FOLDER`): paths, and folders whose files are made on a disk and kept there.

An object is written whole or not at all, and nothing can be appended to it. What grows or needs a real file (tables,
events, samples, weights) is therefore written into a local folder, and its new files are copied to the bucket.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from absl import logging

from bvjax.errors import UserError

if TYPE_CHECKING:
    from etils import epath

AnyPath: TypeAlias = "Path | epath.Path"

_FOLDER = re.compile(r"gs://[a-z0-9][a-z0-9._-]*(/[^/\0]+)+/?")


def is_store(path: str | os.PathLike[str]) -> bool:
    """Returns True for a URL. A `pathlib.Path` never is one: it makes one slash of two."""
    return "://" in os.fspath(path)


def as_path(path: str | AnyPath) -> AnyPath:
    """Returns a path on the disk as `pathlib.Path`, one on a store as `epath.Path`."""
    if not is_store(path):
        return Path(path)
    from etils import epath

    return epath.Path(path)


def check_folder(text: str, name: str) -> None:
    """Checks a folder that was given to a command, when it is on a store.

    Raises:
        UserError: the store is not Google's, there is no folder in the bucket, or a package is missing.
    """
    if not is_store(text):
        return
    if not _FOLDER.fullmatch(text):
        raise UserError(
            f"`{name}` is {text!r}; it must be a folder of a disk, or gs://BUCKET/FOLDER: mount other stores as a disk"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(
            f"`{name}` is {text!r}; this needs gcsfs: install it with pip install 'bvjax[gcs]'"
        )
    import fsspec

    # Orbax writes past gcsfs, whose lists of files would be those from before.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False


def check_on_disk(text: str, name: str) -> None:
    """Raises `UserError` for a URL where a path on a disk is needed."""
    if is_store(text):
        raise UserError(
            f"{name} is {text!r}; it must be on a disk: copy it there, or mount the bucket (Cloud Storage FUSE)"
        )


def relative_files(folder: AnyPath) -> list[str]:
    """Names of all files below `folder`, relative to it and sorted."""
    if isinstance(folder, Path):
        return [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    below = os.fspath(folder).partition("://")[2].rstrip("/") + "/"
    found = []
    for root, _, names in folder.walk():
        # Some backends leave out the scheme.
        inner = f"{os.fspath(root).rstrip('/')}/".partition(below)[2]
        found += [
            f"{inner}{name}" for name in names if name
        ]  # "": made by the console for a folder
    return sorted(found)


class LocalCopy:
    """The files of a folder, on this machine's disk: the folder itself unless it is on a store.

    Attributes:
        folder: where the files are kept; what messages call it.
        path: where they are written.
    """

    def __init__(self, folder: AnyPath, path: Path):
        self.folder, self.path = folder, path
        self._published: dict[str, tuple[int, int]] = {}

    def fetch(self, names: Sequence[str] | None = None) -> None:
        """Copies files of the store to `path`: those of `names` that are there, or all that lie in the folder itself.

        Raises:
            UserError: the store cannot be read.
        """
        if self.folder == self.path:
            return
        try:
            if names is None:
                entries = self.folder.iterdir() if self.folder.is_dir() else ()
                names = [p.name for p in entries if p.name and not p.is_dir()]
            for name in names:
                if (self.folder / name).exists():
                    (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                    with (
                        (self.folder / name).open("rb") as source,
                        open(self.path / name, "wb") as target,
                    ):
                        shutil.copyfileobj(source, target, 2**24)
                    self._published[name] = _state(self.path / name)
        except Exception as error:  # of the network, of permissions: each library has its own
            raise UserError(f"cannot read {self.folder}: {_reason(error)}") from None

    def publish(self) -> None:
        """Copies to the store what is new or has changed since the last time; raises `OSError`."""
        if self.folder == self.path:
            return
        names = [n for n in relative_files(self.path) if not n.endswith(".tmp")]
        # config.json of a weights folder names the others, so that they must be there before.
        for name in sorted(names, key=lambda n: (n.endswith("config.json"), n)):
            state = _state(self.path / name)
            if self._published.get(name) != state:
                _upload(self.path / name, self.folder / name)
                self._published[name] = state

    def try_publish(self) -> None:
        """`publish`, whose failure is a warning: what is missing is copied the next time."""
        try:
            self.publish()
        except OSError as error:
            logging.warning("%s: %s", error.filename, error.strerror)


@contextlib.contextmanager
def local_copy(
    folder: AnyPath, names: Sequence[str] | None = (), publish: bool = True
) -> Iterator[LocalCopy]:
    """The files of `folder` on the disk while it is open, in a temporary folder where `folder` is on a store.

    Args:
        names: fetched first, see `LocalCopy.fetch`.
        publish: at the end, what has changed is copied to the store.
    """
    if not is_store(folder):
        yield LocalCopy(folder, Path(folder))
        return
    with tempfile.TemporaryDirectory(prefix="bvjax.") as temporary:
        copy = LocalCopy(folder, Path(temporary))
        copy.fetch(names)
        try:
            yield copy
        finally:
            if publish:
                copy.try_publish()


def _upload(source: Path, target: AnyPath) -> None:
    try:
        with open(source, "rb") as file, target.open("wb") as copy:
            shutil.copyfileobj(file, copy, 2**24)
    except Exception as error:
        raise OSError(errno.EIO, f"cannot be written: {_reason(error)}", str(target)) from error


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _reason(error: Exception) -> str:
    """The first line of what a library says."""
    return next(iter(str(error).split("\n")), "")[:300] or type(error).__name__
