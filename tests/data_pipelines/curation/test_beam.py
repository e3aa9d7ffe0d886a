"""The stages on Beam give the manifest of the local command. Needs the packages of requirements-beam.txt."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("apache_beam")

from bvjax.overrides import apply_overrides
from data_pipelines.curate import Request, curate
from data_pipelines.curation import beam
from data_pipelines.curation.settings import Settings
from data_pipelines.validate import validate
from tests.data_pipelines.curation.footage import barred, film, pan, still, walker


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    film(folder / "b\n.mkv", pan(1, 56), still(3, 48), barred(pan(4, 48)))
    film(folder / "a.mkv", walker(2, 48))
    (folder / "c.mkv").write_bytes((folder / "a.mkv").read_bytes())
    (folder / "text.mp4").write_text("no film")
    return folder


def test_both_engines_decide_alike(films, tiny, tmp_path):
    settings = apply_overrides(Settings(), ["takes.least_seconds=2", "chunks.keyframe_side=32"])
    manifests = {}
    for name, engine in {"local": curate, "beam": beam.curate}.items():
        request = Request(films, tiny.weights, tmp_path / name, settings)
        engine(request)
        manifests[name] = (tmp_path / name / "manifest.jsonl").read_text()
    assert manifests["beam"] == manifests["local"]
    kinds = [
        json.loads(line).get("dropped", {}).get("kind") for line in manifests["beam"].splitlines()
    ]
    assert kinds == [None, None, "too still", "letterbox", "same file", "cannot be read"]
    frames = {
        name: {
            p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.jpg")
        }
        for name in manifests
    }
    assert frames["beam"] == frames["local"] and frames["beam"]
    reports = {
        name: json.loads((tmp_path / name / "report.json").read_text()) for name in manifests
    }
    for local, on_beam in zip(
        *(reports[name]["stages"] for name in ("local", "beam")), strict=True
    ):
        assert {k: local[k] for k in ("stage", "kept", "dropped", "why")} == {
            k: on_beam[k] for k in ("stage", "kept", "dropped", "why")
        }
    card = (tmp_path / "beam" / "README.md").read_text()
    assert card == (tmp_path / "local" / "README.md").read_text()
    for name in manifests:
        assert validate(tmp_path / name)[0] == []
