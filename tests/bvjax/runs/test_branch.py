"""Branches: what they share, what is theirs, what is refused."""

import dataclasses
import json
import os

import pytest

from bvjax.errors import UserError
from bvjax.runs.branch import Origin, branch, origin_of
from bvjax.runs.execute import execute, is_finished
from bvjax.runs.redo import redo, rewrite_coming
from bvjax.runs.run_dir import RunDir
from tests.bvjax.runs.conftest import copy, latents


def files(path):
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_branch_shares_its_past_on_disk(finished, bundle, tmp_path):
    """It has the same files for what is shared, makes the rest, and neither run changes the other."""
    parent, path = copy(finished, tmp_path), tmp_path / "other"
    before = files(parent)
    with RunDir.open(parent) as run:
        made = branch(run, bundle, path, 4, ["Ada waves.", "Ada walks off."], seed=9, title="Ada")
    with made:
        assert (made.title, made.captions[2:]) == (
            "Ada",
            (run.captions[2], "Ada waves.", "Ada walks off."),
        )
        assert made.settings.rerolls == ((4, 9),)
        progress = list(execute(made, bundle))
        assert is_finished(made)
    assert [p.fresh for p in progress] == [False] * 4 + [True] * 2
    assert files(parent) == before
    for name, content in latents(path).items():
        twin = parent / "latents" / name
        same = os.path.samefile(twin, path / "latents" / name)
        assert same == (name < "chunk_04") and (twin.read_bytes() == content) == same
    assert origin_of(path) == Origin("run", 4) and origin_of(parent) is None
    with RunDir.open(path) as run:  # and as any run it can be made again
        redo(run, bundle, 2, {}).close()
    assert files(parent) == before


def test_the_same_captions_give_the_same_video(finished, bundle, tmp_path):
    with RunDir.open(copy(finished, tmp_path)) as run:
        made = branch(run, bundle, tmp_path / "b", 3, run.captions[2:])
    with made:
        list(execute(made, bundle))
    assert latents(tmp_path / "b") == latents(finished)


def test_a_branch_from_the_first_chunk_shares_nothing(finished, bundle, tmp_path):
    with RunDir.open(copy(finished, tmp_path)) as run:
        made = branch(run, bundle, tmp_path / "b", 1, ["Pip waves."])
    with made:
        assert not latents(tmp_path / "b") and made.captions == ("Pip waves.",)


def test_what_a_branch_refuses(finished, bundle, tmp_path):
    path = copy(finished, tmp_path)
    with RunDir.open(path) as run:
        for first, captions, seed, says in (
            (0, ["x"], None, "chunks 1 to 6"),
            (7, ["x"], None, "chunks 1 to 6"),
            (3, [], None, "no caption of its own"),
            (3, ["Pip waves.", " "], None, "caption 4 is empty"),
            (3, ["Pip waves " * 40], None, "tokens, the limit is 64"),
            (3, ["Pip waves."], -1, "the seed is -1"),
        ):
            with pytest.raises(UserError, match=says):
                branch(run, bundle, tmp_path / "b", first, captions, seed)
        with pytest.raises(UserError, match="is not empty"):
            branch(run, bundle, path, 3, ["Pip waves."])
        (path / "latents" / "chunk_03.json").unlink()
        with pytest.raises(UserError, match="are not all made"):
            branch(run, bundle, tmp_path / "b", 5, ["Pip waves."])
    other = dataclasses.replace(bundle, sha256="0" * 64)
    with RunDir.open(path) as run, pytest.raises(UserError, match="not those that"):
        branch(run, other, tmp_path / "b", 3, ["Pip waves."])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "content",
    [[], {"run": "a"}, {"run": "../a", "from_chunk": 2}, {"run": "a", "from_chunk": True},
     {"run": "a", "from_chunk": 0}, {"run": 3, "from_chunk": 2}, {"run": "", "from_chunk": 1}],
)  # fmt: skip
def test_an_origin_that_nobody_wrote(tmp_path, content):
    (tmp_path / "branch.json").write_text(json.dumps(content))
    assert origin_of(tmp_path) is None


def test_captions_of_chunks_to_come(finished, bundle, tmp_path):
    """They can be others, more or fewer; what is made stays, and is not made again."""
    path = copy(finished, tmp_path)
    with RunDir.open(path) as run:
        redo(run, bundle, 4, {}).close()  # chunks 4 and 5 are not made
    new = [*finished_captions(path)[:3], "Ada waves.", "Pip waves.", "Ada walks off."]
    with RunDir.open(path) as run:
        for captions, says in (
            (["Pip runs.", *new[1:]], "caption 1 cannot be edited"),
            (new[:2], "the story has 2 captions; 3 chunks are made"),
            ([*new[:3], " "], "caption 4 is empty"),
        ):
            with pytest.raises(UserError, match=says):
                rewrite_coming(run, bundle, captions)
        rewrite_coming(run, bundle, new)
        assert [p.fresh for p in execute(run, bundle)] == [False] * 4 + [True] * 3
    assert finished_captions(path) == new and len(latents(path)) == 7
    assert {k: v for k, v in latents(path).items() if k < "chunk_04"} == {
        k: v for k, v in latents(finished).items() if k < "chunk_04"
    }
    with RunDir.open(path) as run:
        redo(run, bundle, 4, {}, seed=3).close()
    with RunDir.open(path) as run:
        rewrite_coming(run, bundle, new[:3])
        assert run.settings.rerolls == () and is_finished(run) is False
        assert [p.fresh for p in execute(run, bundle)] == [False] * 4


def finished_captions(path):
    return json.loads((path / "story.json").read_text())["captions"]
