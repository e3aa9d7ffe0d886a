"""A folder gets all of its files or none, and nothing else is touched."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from bvjax.conversion import staging
from bvjax.errors import UserError


def tree(folder):
    return {
        p.relative_to(folder).as_posix(): p.is_dir() or p.read_bytes() for p in folder.rglob("*")
    }


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"new {name}")


def test_all_at_the_end(tmp_path):
    target = tmp_path / "a/b"
    with staging.open_staging_dir(target) as staging_dir:
        fill(staging_dir, "x", "in/y", "z.json")
        assert [path.name for path in target.iterdir()] == [staging_dir.name]
    assert tree(target) == {"x": b"new x", "in": True, "in/y": b"new in/y", "z.json": b"new z.json"}


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt, OSError])
def test_nothing_when_it_fails(error, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/x").write_text("old")
    before = tree(tmp_path)
    for target in (tmp_path / "there", tmp_path / "a/b/c"):
        with pytest.raises(error):
            with staging.open_staging_dir(target) as staging_dir:
                fill(staging_dir, "x", "in/y")
                raise error
        assert tree(tmp_path) == before


def test_what_describes_the_others_comes_last(tmp_path, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(b.name), replace(a, b)))
    with staging.open_staging_dir(tmp_path) as staging_dir:
        fill(staging_dir, "manifest.json", "dit", "in/config.json", "in/vae")
    assert moved[-1] == "manifest.json" and set(moved[:2]) == {"dit", "vae"}


def test_what_is_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    assert staging.check_writable(tmp_path / "new/er", ["a/b"]) == tmp_path
    for folder, name, match in (
        (tmp_path / "file", "a", "file is a file; a folder is to be written there"),
        (tmp_path / "file/deeper", "a", "file is a file"),
        (tmp_path, "file/a", "file is a file"),
        (tmp_path, "folder", "folder is a folder; a file is to be written there"),
        (tmp_path / "a" / ("é" * 128), "a", "is a name of 256 bytes; it can have 255"),
        (tmp_path / "\n".join("a" * 200), "a", "is a name of 399 bytes"),
    ):
        with pytest.raises(UserError, match=match):
            staging.check_writable(folder, [name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_place_that_cannot_be_written_to(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(staging.tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=f"cannot write to {tmp_path}: Permission denied"):
        staging.check_writable(tmp_path / "new", ["a"])


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_no_folder_to_move_files_to(tmp_path, there):
    """It may lead to another disk; the folder itself may be a link, because files are made inside."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst/vae").symlink_to(tmp_path / ("elsewhere" if there else "nowhere"))
    with pytest.raises(UserError, match="dst/vae is a link; a folder is to be written to there"):
        staging.check_writable(tmp_path / "dst", ["dit", "vae/config.json"])
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert staging.check_writable(tmp_path / "link", ["vae/config.json"]) == tmp_path / "link"


KILLED = """
import os, pathlib, sys
from bvjax.conversion import staging
with staging.open_staging_dir(pathlib.Path(sys.argv[1])) as staging_dir:
    (staging_dir / "half").write_text("x")
    if sys.argv[2] == "die":
        os._exit(9)
    print(staging_dir.name, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed(tmp_path):
    """But not what a process still works on, nor what has another name."""
    root = str(pathlib.Path(staging.__file__).parents[2])
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run([*command, "die"], cwd=root).returncode == 9
    (left,) = tmp_path.iterdir()
    (tmp_path / ".unfinished").mkdir()
    options = dict(cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([*command, "wait"], **options) as working:
        name = working.stdout.readline().strip()
        assert staging.remove_leftovers(tmp_path) == [left]
        assert (tmp_path / name / "half").exists()
        working.communicate("")
    assert {path.name for path in tmp_path.iterdir()} == {".unfinished", "half"}
    assert staging.remove_leftovers(tmp_path / "none") == []
