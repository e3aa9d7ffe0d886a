"""The catalogue of metric weights, and what loading refuses."""

import dataclasses
import hashlib
import pathlib
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from bvjax.errors import UserError
from bvjax.lvbench import suites, weights
from bvjax.lvbench.metric import Options

HEAD = {"weight": np.ones((1, 768), np.float32), "bias": np.zeros(1, np.float32)}


def test_catalogue_has_what_the_suites_need_and_is_consistent():
    every = Options(flow="raft", subject="dino", aesthetic="laion")
    needed = {
        name for entry in suites.METRIC_ENTRIES.values() for name in entry.required_weights(every)
    }
    assert needed == set(weights.FILES)
    for name, entry in weights.FILES.items():
        assert name == entry.name and re.fullmatch("[0-9a-f]{64}", entry.sha256)
        assert entry.address.endswith((entry.file, ".zip")) and entry.size > 0
        assert weights.used_by(name)
        if entry.archive:  # a program inside: only the publisher's own hash will do
            assert entry.published and entry.sha256 in entry.address
    musiq = weights.FILES["musiq_spaq"]
    assert musiq.sha256[:8] in musiq.file  # as its publisher names files


def test_folder_is_chosen_by_the_environment(monkeypatch):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, "/a")
    assert weights.default_folder() == pathlib.Path("/a")
    monkeypatch.delenv(weights.FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert weights.default_folder() == pathlib.Path("/b/bvjax/metrics")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.default_folder() == pathlib.Path.home() / ".cache/bvjax/metrics"


def test_all_that_is_missing_is_told_at_once(tmp_path):
    save_file(HEAD, tmp_path / "laion_aesthetic.safetensors")
    (tmp_path / "amt-s.pth").touch()
    weights.check_present(["laion_aesthetic"], tmp_path)
    with pytest.raises(UserError) as error:
        weights.check_present(["laion_aesthetic", "amt_s", "dino_vitb16", "amt_s"], tmp_path)
    text = str(error.value)
    assert text.count("amt-s.pth") == 1 and "not converted yet" in text
    assert weights.FILES["dino_vitb16"].address in text and "343.2 MB" in text
    assert weights.CONVERT in text and str(tmp_path) in text and "laion" not in text
    with pytest.raises(UserError, match="no metric weights 'vgg'"):
        weights.check_present(["vgg"], tmp_path)
    states = {row["name"]: row["state"] for row in weights.table(tmp_path)}
    assert [states[n] for n in ("laion_aesthetic", "amt_s", "raft_things")] == [
        "present",
        "convert",
        "missing",
    ]
    text_of_table = "\n".join(weights.lines(tmp_path))
    for entry in weights.FILES.values():
        assert all(
            part in text_of_table
            for part in (entry.address, entry.sha256, entry.licence, str(entry.size))
        )


def test_loading_is_strict(tmp_path):
    path = tmp_path / "laion_aesthetic.safetensors"

    def load(**changed):
        tensors = {name: x for name, x in (HEAD | changed).items() if x is not None}
        save_file(tensors, path)
        return weights.load("laion_aesthetic", tmp_path)

    loaded = load()
    assert list(loaded) == ["weight", "bias"]
    np.testing.assert_array_equal(loaded["weight"], HEAD["weight"])
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.sha256("laion_aesthetic", tmp_path) == expected
    with pytest.raises(UserError, match="lacks bias and has too many: scale"):
        load(bias=None, scale=np.ones(1, np.float32))
    with pytest.raises(UserError, match=r"weight is \[1, 512\], not \[1, 768\]"):
        load(weight=np.ones((1, 512), np.float32))
    with pytest.raises(UserError, match="bias is float16"):
        load(bias=np.zeros(1, np.float16))
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        weights.load("laion_aesthetic", tmp_path)


def test_other_hashes_are_only_the_publishers():
    entry = weights.FILES["raft_things"]
    assert not entry.published
    assert dataclasses.replace(entry, hash_from="its address").published
