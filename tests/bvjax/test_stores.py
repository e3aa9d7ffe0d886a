"""Folders in buckets, and their copies on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from bvjax import console
from bvjax.errors import UserError
from bvjax.files import read_json, write_atomic, write_json
from bvjax.stores import LocalCopy, as_path, check_on_disk, is_store, local_copy, relative_files
from tests.support import bucket

RUN = "gs://bucket/run"


@pytest.fixture
def buckets(tmp_path, monkeypatch):
    return bucket.install(tmp_path / "store", monkeypatch)


def test_only_urls_are_on_a_store():
    assert is_store(RUN) and is_store(as_path(RUN)) and str(as_path(RUN) / "a" / ".") == f"{RUN}/a"
    assert not is_store("runs/gs:/x") and as_path("runs/x") == Path("runs/x")


@pytest.mark.parametrize("text", ["s3://b/run", "gs://bucket", "gs://bucket/", "gs:///run", "gs://b//r"])  # fmt: skip
def test_other_stores_and_whole_buckets_are_refused(text):
    with pytest.raises(UserError, match="`workdir` is .*a folder of a disk, or gs://BUCKET/FOLDER"):
        console.folder(text, "workdir")


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs gcsfs: install it with pip install 'bvjax\[gcs\]'"):
        console.folder(RUN, "workdir")
    assert console.folder("runs/x", "workdir") == Path("runs/x")


def test_what_must_be_on_a_disk_is_refused():
    with pytest.raises(UserError, match="data.latents is 'gs://b/data'; it must be on a disk"):
        check_on_disk("gs://b/data", "data.latents")
    check_on_disk("data/encoded", "data.latents")


def test_files_are_written_read_and_listed(buckets, tmp_path):
    folder, there = as_path(RUN), tmp_path / "store" / "bucket" / "run"
    write_json(folder / "config.json", {"a": 1})
    write_atomic(folder / "b" / "c", memoryview(b"x"))
    assert read_json(f"{RUN}/config.json") == read_json(folder / "config.json") == {"a": 1}
    assert relative_files(folder) == relative_files(there) == ["b/c", "config.json"]
    assert not relative_files(as_path("gs://bucket/none"))
    with pytest.raises(UserError, match="cannot read gs://bucket/run/none"):
        read_json(folder / "none")


def test_a_folder_of_the_disk_is_its_own_copy(tmp_path):
    with local_copy(tmp_path, ("none",)) as copy:
        assert copy.folder == copy.path == tmp_path
        copy.publish()
    assert tmp_path.is_dir()


def test_changed_files_are_published_once_and_config_json_last(buckets):
    write_atomic(as_path(RUN) / "metrics.csv", b"step\n")
    buckets.written.clear()
    with local_copy(as_path(RUN), ("metrics.csv", "none")) as copy:
        assert (copy.path / "metrics.csv").read_bytes() == b"step\n"
        (copy.path / "weights").mkdir()
        for name in ("weights/vae.safetensors", "weights/config.json", ".half.tmp"):
            (copy.path / name).write_text("1")
        copy.publish()
        assert buckets.written == [f"{RUN}/weights/vae.safetensors", f"{RUN}/weights/config.json"]
        copy.publish()
        with open(copy.path / "metrics.csv", "a") as file:
            file.write("1\n")
    assert buckets.written[2:] == [f"{RUN}/metrics.csv"]
    assert (as_path(RUN) / "metrics.csv").read_bytes() == b"step\n1\n" and not copy.path.exists()


def test_what_could_not_be_published_is_tried_again(buckets, tmp_path, caplog):
    copy = LocalCopy(as_path(RUN), tmp_path / "copy")
    write_json(Path((tmp_path / "copy").mkdir() or tmp_path / "copy" / "a.json"), 1)
    buckets.broken = {"a.json"}
    with pytest.raises(OSError, match="cannot be written: no route to a.json: 'gs://bucket/run/a"):
        copy.publish()
    copy.try_publish()
    assert "gs://bucket/run/a.json: cannot be written: no route to a.json" in caplog.text
    buckets.broken = set()
    copy.try_publish()
    assert read_json(as_path(RUN) / "a.json") == 1


def test_a_whole_folder_is_fetched_and_nothing_is_written_back(buckets):
    for name in ("config.json", "dit.safetensors", "raw/dit.safetensors"):
        write_atomic(as_path(RUN) / name, b"1")
    buckets.written.clear()
    with local_copy(as_path(RUN), None, publish=False) as copy:
        assert relative_files(copy.path) == ["config.json", "dit.safetensors"]
        (copy.path / "more").write_text("")
    assert not buckets.written


def test_a_store_that_cannot_be_read_is_one_sentence(buckets, monkeypatch):
    def fail(*args):
        raise ConnectionError("no credentials\nand a page more")

    monkeypatch.setattr(bucket.Buckets, "exists", fail)
    with pytest.raises(UserError, match="^cannot read gs://bucket/run: no credentials$"):
        with local_copy(as_path(RUN), ("metrics.csv",)):
            pass
