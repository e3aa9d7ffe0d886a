"""Google Cloud Storage as a folder of the disk: etils and Orbax find `gs://BUCKET/NAME` in FOLDER/BUCKET/NAME."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from etils.epath import backend
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from orbax.checkpoint._src.path import gcs_utils


class Buckets(DirFileSystem):
    """Objects are not appended to; `broken` names cannot be written."""

    protocol = ("gs", "gcs")

    def __init__(self, folder: Path, **_: Any):  # fsspec adds what the environment says of gs://
        super().__init__(path=str(folder), fs=LocalFileSystem(auto_mkdir=True))
        self.broken: set[str] = set()
        self.written: list[str] = []

    def open(self, path: str, mode: str = "rb", **options: Any):
        assert "a" not in mode and "+" not in mode, f"{path} is opened to append"
        name = os.fspath(path).rpartition("/")[2]
        if "w" in mode:
            if name in self.broken:
                raise ConnectionError(f"no route to {name}\nand much more")
            self.written.append(os.fspath(path))
        return super().open(path, mode, **options)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Buckets:
    """Puts all buckets into `folder` for the length of a test."""
    buckets = Buckets(folder)
    find = backend._FileSystemSpecBackend.fs

    def fs(self, path):
        return buckets if os.fspath(path).startswith("gs://") else find(self, path)

    def kvstore(path: str) -> dict[str, str]:
        return {"driver": "file", "path": f"{folder}/{path.removeprefix('gs://')}"}

    monkeypatch.setattr(backend._FileSystemSpecBackend, "fs", fs)
    monkeypatch.setattr(gcs_utils, "get_kvstore_for_gcs", kvstore)
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    return buckets
