"""A disk that is full, in any stage and at any file: nothing is lost, nothing is half there, and the next run goes on."""

from __future__ import annotations

import json

import pytest

from bvjax.console import run as run_command
from bvjax.files import DISK_FULL
from bvjax.overrides import apply_overrides
from data_pipelines.curate import Request, curate
from data_pipelines.curation import run, stages
from data_pipelines.curation.journal import Journal
from data_pipelines.curation.settings import Settings
from data_pipelines.validate import validate
from tests.data_pipelines.curation.footage import film, pan

SET = ("takes.least_seconds=2", "chunks.keyframes=1", "chunks.keyframe_side=32")


@pytest.fixture(scope="module")
def untroubled(tiny, tmp_path_factory):
    """A film of one take with captions: a request by its output folder, and the manifest of a run that nothing befell."""
    videos, out = tmp_path_factory.mktemp("films"), tmp_path_factory.mktemp("out")
    film(videos / "a.mkv", pan(1, 40))
    (videos / "text.mp4").write_text("no film")
    settings = apply_overrides(Settings(), SET)
    curate(Request(videos, tiny.weights, out, settings))
    lines = [json.loads(line) for line in (out / "captions_wanted.jsonl").read_text().splitlines()]
    told = "".join(json.dumps(line | {"caption": "Pip waves."}) + "\n" for line in lines)
    (videos / "captions.jsonl").write_text(told)
    settings = apply_overrides(settings, [f"captions.file={videos / 'captions.jsonl'}"])
    request = lambda out: Request(videos, tiny.weights, out, settings, until="review")
    curate(request(out))
    return request, (out / "manifest.jsonl").read_bytes()


def test_in_any_stage(untroubled, tmp_path, capsys, monkeypatch):
    """Each stage in turn cannot write what it gave; what the ones before gave is there, and not done again."""
    request, manifest = untroubled
    out, add, done = tmp_path / "out", Journal.add, []
    work = run.work
    monkeypatch.setattr(run, "work", lambda piece: done.append(piece[0]) or work(piece))
    for stage in stages.STAGES:

        def full(self, film, inputs, rows, name=stage.name):
            if self._path.stem == name:
                raise OSError(DISK_FULL[0], "No space left on device", str(self._path))
            add(self, film, inputs, rows)

        done.clear()
        monkeypatch.setattr(Journal, "add", full)
        assert run_command(lambda: curate(request(out)) and None) == 1
        assert "no space left on the disk" in capsys.readouterr().err
        before = stages.STAGES[max(0, stages.NAMES.index(stage.name) - 1)]
        assert {*done} == {before.function, stage.function}
    monkeypatch.setattr(Journal, "add", add)
    curate(request(out))
    assert (out / "manifest.jsonl").read_bytes() == manifest


def test_at_any_file(untroubled, tmp_path, monkeypatch):
    """Keyframes, the manifest, the report, the card: there is room for more and more of them."""
    request, manifest = untroubled
    out, room = tmp_path / "out", [0, 0]  # files that fit, files that were written

    def fsync(number):
        room[1] += 1
        if room[1] > room[0]:
            raise OSError(DISK_FULL[0], "No space left on device")

    monkeypatch.setattr("bvjax.files.os.fsync", fsync)
    for fits in range(100):
        room[:] = fits, 0
        try:
            curate(request(out))
            break
        except OSError as error:
            assert error.errno == DISK_FULL[0]
            assert not [*out.rglob("*.tmp")]
    assert fits > 10
    assert (out / "manifest.jsonl").read_bytes() == manifest
    assert validate(out)[0] == []
