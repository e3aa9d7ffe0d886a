"""Chunks made again: what stays, what changes, what is refused."""

import dataclasses
import json

import pytest

from bvjax.errors import UserError
from bvjax.runs.execute import execute, is_finished
from bvjax.runs.redo import redo
from bvjax.runs.run_dir import RunDir
from tests.bvjax.runs.conftest import copy, latents


def test_redo_leaves_earlier_chunks_alone(finished, bundle, tmp_path):
    path = copy(finished, tmp_path)
    before = latents(path)
    with RunDir.open(path) as run:
        again = redo(run, bundle, 4, {4: "Pip comes back to Willow Hollow."})
    with again:
        progress = list(execute(again, bundle))
    after = latents(path)
    assert [p.fresh for p in progress] == [False] * 4 + [True] * 2
    for name in before:
        assert (after[name] == before[name]) == (name < "chunk_04"), name
    assert latents(path / "archive" / "001") == {n: before[n] for n in list(before)[4:]}
    report = json.loads((path / "report.json").read_text())
    assert report["chunks"][3]["caption"] == "Pip comes back to Willow Hollow."


def test_redo_without_an_edit_gives_the_same_again(finished, bundle, tmp_path):
    path = copy(finished, tmp_path)
    with RunDir.open(path) as run:
        again = redo(run, bundle, 1, {})
    with again:
        assert all(p.fresh for p in execute(again, bundle))
    assert latents(path) == latents(finished)


def test_redo_with_cuts_and_without(finished, bundle, tmp_path):
    """A chunk begins a shot, and begins none again: from it on chunks are others, and then the same."""
    path = copy(finished, tmp_path)
    before = latents(path)
    with RunDir.open(path) as run, redo(run, bundle, 3, {}, cuts={4: True}) as again:
        list(execute(again, bundle))
    cut = latents(path)
    assert [name for name in before if cut[name] != before[name]][0] == "chunk_04.npy"
    assert json.loads((path / "report.json").read_text())["cuts"] == [4]
    for from_chunk, cuts, match in (
        (3, {2: True}, "whether chunk 2 begins a shot cannot be changed .*; it can be 3 to 5"),
        (1, {1: False}, "it can be 2 to 5"),
        (5, {6: True}, "it can be 5 to 5"),
    ):
        with RunDir.open(path) as run, pytest.raises(UserError, match=match):
            redo(run, bundle, from_chunk, {}, cuts=cuts)
    with RunDir.open(path) as run, redo(run, bundle, 4, {}, cuts={4: False}) as again:
        list(execute(again, bundle))
    assert latents(path) == before


def test_redo_with_another_seed(finished, bundle, tmp_path, caplog):
    """The chunks before stay, the others are not the same, and a resumed run makes these again."""
    caplog.set_level("INFO", "absl")
    path, before = copy(finished, tmp_path), latents(finished)
    with RunDir.open(path) as run:
        again = redo(run, bundle, 3, {}, seed=9)
    assert "chunks 1 to 2 stay as they are, chunks 3 to 5 are made again" in caplog.text
    assert str(path / "archive" / "001") in caplog.text and "another seed makes" not in caplog.text
    with again:
        list(execute(again, bundle))
        assert is_finished(again)
    after = latents(path)
    assert {n for n in before if after[n] == before[n]} == {f"chunk_0{i}.npy" for i in range(3)}
    report = json.loads((path / "report.json").read_text())
    assert report["seed"] == 5 and report["rerolls"] == [[3, 9]]
    (path / "latents" / "chunk_04.npy").write_bytes(b"damaged")
    with RunDir.open(path) as run:
        assert not is_finished(run)
        list(execute(run, bundle))
    assert latents(path) == after
    with RunDir.open(path) as run:
        redo(run, bundle, 3, {3: run.captions[2]}, seed=9).close()
    assert "the same chunks are made again; another seed makes others" in caplog.text


def test_redo_refuses(finished, bundle, tmp_path):
    path = copy(finished, tmp_path)
    for from_chunk, edits, says in (
        (0, {}, "chunks 1 to 5"),
        (6, {}, "chunks 1 to 5"),
        (3, {2: "x"}, "caption 2 cannot be edited"),
        (3, {6: "x"}, "caption 6 cannot be edited"),
        (3, {3: "  "}, "caption 3 is empty"),
        (3, {3: "\u200b"}, "caption 3 is empty"),
        (3, {3: "Pip \udcff"}, "caption 3 has half a character"),
        (3, {3: "Pip waves " * 40}, "the new caption 3 has .* tokens, the limit is 64: shorten it"),
    ):
        with RunDir.open(path) as run, pytest.raises(UserError, match=says):
            redo(run, bundle, from_chunk, edits)
    with RunDir.open(path) as run, pytest.raises(UserError, match="the seed is -1"):
        redo(run, bundle, 3, {}, seed=-1)
    assert latents(path) == latents(finished) and not (path / "archive").exists()


@pytest.mark.parametrize("fails", ["load_text", "params"])
def test_redo_checks_the_weights_before_it_moves_anything(
    finished, bundle, tmp_path, monkeypatch, fails
):
    def damaged(*_):
        raise UserError("the weights are damaged")

    path = copy(finished, tmp_path)
    monkeypatch.setenv("BVJAX_TEXT_CACHE", "off")
    if fails == "params":
        params = type("Damaged", (dict,), {"__getitem__": damaged})()
        bundle = dataclasses.replace(bundle, params=params)
    else:
        monkeypatch.setattr(type(bundle), "load_text", damaged)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"}
    with RunDir.open(path) as run, pytest.raises(UserError, match="weights are damaged"):
        redo(run, bundle, 3, {3: "Pip runs."})
    assert before == {
        p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"
    }
