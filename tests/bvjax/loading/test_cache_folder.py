"""Where the cache is, and hashes of files that are not read twice."""

from __future__ import annotations

import hashlib
import os
import pathlib
import time

import pytest

from bvjax.loading import cache_folder
from bvjax.loading.cache_folder import file_sha256


def test_where_it_is(monkeypatch, tmp_path):
    home = pathlib.Path.home()
    for variable, base, expected in (
        ("off", None, None),
        (str(tmp_path), "/x", tmp_path),
        ("~/here", None, home / "here"),
        ("", "/x", pathlib.Path("/x/bvjax/text")),
        (None, None, home / ".cache/bvjax/text"),
    ):
        for name, value in (("BVJAX_TEXT_CACHE", variable), ("XDG_CACHE_HOME", base)):
            monkeypatch.delenv(name) if value is None and name in os.environ else None
            if value is not None:
                monkeypatch.setenv(name, value)
        assert cache_folder.cache_folder() == expected


@pytest.fixture
def read(monkeypatch):
    """Files that are read to be hashed."""
    paths, plain = [], cache_folder.sha256_of
    monkeypatch.setattr(cache_folder, "sha256_of", lambda path: paths.append(path) or plain(path))
    return paths


def later(monkeypatch, seconds=60.0):
    now = time.time() + seconds
    monkeypatch.setattr(cache_folder.time, "time", lambda: now)


def test_hashes_are_kept_until_the_file_changes(tmp_path, monkeypatch, read):
    path, cache = tmp_path / "w", tmp_path / "cache"
    path.write_bytes(b"one")
    one, two = (hashlib.sha256(content).hexdigest() for content in (b"one", b"two"))
    assert file_sha256(path, cache) == file_sha256(path, cache) == one and len(read) == 2  # fresh
    later(monkeypatch)
    assert [file_sha256(path, cache) for _ in range(3)] == [one] * 3 and len(read) == 3
    assert file_sha256(path, None) == one and len(read) == 4  # without a folder nothing is kept
    times = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time of writing
    assert file_sha256(path, cache) == two
    (tmp_path / "link").symlink_to(path)
    count = len(read)
    assert file_sha256(tmp_path / "link", cache) == two and len(read) == count


def test_a_damaged_record_is_made_again(tmp_path, monkeypatch, read):
    path, cache = tmp_path / "w", tmp_path / "cache"
    path.write_bytes(b"one")
    later(monkeypatch)
    one = file_sha256(path, cache)
    (record,) = (cache / "files").iterdir()
    for content in ("", "{", "[]", '{"state": 1}'):
        record.write_text(content)
        assert file_sha256(path, cache) == one
    assert len(read) == 5
    assert file_sha256(path, cache) == one and len(read) == 5
