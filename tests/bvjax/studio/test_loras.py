"""LoRAs of a folder: chosen for a run, switched for chunks to come, brought to a branch; each run has its own."""

import json

import numpy as np
import pytest
from starlette.testclient import TestClient

from bvjax.errors import UserError
from bvjax.runs.execute import execute
from bvjax.runs.run_dir import RunDir
from bvjax.studio.lora_library import LoraLibrary
from bvjax.studio.server import make_app
from bvjax.studio.studio import Studio
from tests.bvjax.studio.conftest import CAPTIONS
from tests.bvjax.studio.test_server import finished, post
from tests.support import lora_files as files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two LoRAs, one of them under two names, and files that are none."""
    path = tmp_path_factory.mktemp("loras")
    files.save(path / "ink.safetensors", files.lora())
    files.save(path / "oil.safetensors", files.lora(seed=1))
    files.save(path / "oil again.safetensors", files.lora(seed=1))
    files.save(path / "strange.safetensors", {"x": np.zeros(3, np.float32)})
    (path / "notes.txt").write_text("x")
    return path


@pytest.fixture
def studio(pipeline, tmp_path, folder):
    return Studio(pipeline, tmp_path, folder)


def strengths(studio, name):
    settings = json.loads((studio.versions.path(name) / "config.json").read_text())
    return settings["lora_strengths"]


def test_files_that_fit_are_offered(studio, folder, pipeline, tmp_path, caplog):
    with TestClient(make_app(studio), base_url="http://localhost") as client:
        names = [lora["name"] for lora in client.get("/api/about").json()["loras"]]
    assert names == ["ink", "oil again"]
    LoraLibrary(pipeline.bundle, folder)
    assert "oil.safetensors is there under another name" in caplog.text
    assert "strange.safetensors" in caplog.text
    with pytest.raises(UserError, match=r"has no LoRA \(\*.safetensors\) that fits tiny"):
        LoraLibrary(pipeline.bundle, tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        LoraLibrary(pipeline.bundle, tmp_path / "none")


@pytest.mark.slow
def test_a_run_with_loras(studio, pipeline):
    """Made with the model: a LoRA is switched between chunks, another comes, and runs without are as ever."""
    captions = [*CAPTIONS, "Pip sits."]
    with TestClient(make_app(studio), base_url="http://localhost:8642") as client:
        asked = {"title": "With", "captions": captions[:2], "loras": {"ink": 0.5, "oil again": 0}}
        name = post(client, "/api/runs", asked).json()["name"]
        now = finished(client, name)
        assert now["loras"] == [{"name": "ink", "strengths": [[1, 0.5]]}]
        post(client, f"/api/runs/{name}/captions", {"captions": captions})
        switch = {"from_chunk": 3, "loras": {"oil again": 1.0, "ink": 0}}
        assert post(client, f"/api/runs/{name}/loras", switch).status_code == 200
        assert strengths(studio, name) == [[0, [0.5, 0.0]], [3, [0.0, 1.0]]]
        refused = post(client, f"/api/runs/{name}/loras", {**switch, "from_chunk": 2})
        assert refused.status_code == 400 and "it can be 3 to 3" in refused.json()["error"]
        post(client, f"/api/runs/{name}/go")
        made = finished(client, name)
        assert {n: p["key"] for n, p in now["pieces"].items()}.items() <= {
            n: p["key"] for n, p in made["pieces"].items()
        }.items()

        plain = post(client, "/api/runs", {"title": "Without", "captions": captions[:2]})
        plain = finished(client, plain.json()["name"])
        assert plain["loras"] == [] and plain["pieces"]["1"]["key"] != made["pieces"]["1"]["key"]
        other = {"from_chunk": 2, "captions": captions[1:2], "loras": {"ink": 1.0}, "title": "More"}
        other = post(client, "/api/runs/without/branch", other).json()["name"]
        branched = finished(client, other)
        assert branched["loras"] == [{"name": "ink", "strengths": [[1, 0.0], [2, 1.0]]}]
        assert branched["pieces"]["1"]["key"] == plain["pieces"]["1"]["key"]
        assert branched["pieces"]["2"]["key"] != plain["pieces"]["2"]["key"]
        again = {"from_chunk": 2, "loras": {"ink": 0}}
        post(client, f"/api/runs/{other}/redo", again)
        assert finished(client, other)["pieces"]["2"]["key"] == plain["pieces"]["2"]["key"]
    with RunDir.open(studio.versions.path(name)) as run:
        progress = execute(run, studio.library.bundle_of(run.settings))
        assert not any(piece.fresh for piece in progress)


def test_a_run_whose_lora_is_away(studio, pipeline):
    """Seen, not made: a studio without the file says so."""
    with TestClient(make_app(studio), base_url="http://localhost:8642") as client:
        asked = {"title": "With", "captions": CAPTIONS, "loras": {"ink": 0.5}}
        name = post(client, "/api/runs", asked).json()["name"]
        post(client, f"/api/runs/{name}/stop")
    with TestClient(
        make_app(Studio(pipeline, studio.versions.root)), base_url="http://localhost:8642"
    ) as client:
        assert client.get("/api/runs").json()["runs"][0]["ours"] is False
        refused = post(client, f"/api/runs/{name}/branch", {"from_chunk": 1})
        assert refused.status_code == 400 and "the LoRA ink.safetensors" in refused.json()["error"]


@pytest.mark.parametrize(
    "loras", [["ink"], {"ink": "1"}, {"ink": True}, {"ink": 1e9}, {"../ink": 1}, {"": 1}, {"ink": None},
              {str(n): 1 for n in range(65)}],
)  # fmt: skip
def test_strengths_that_mean_nothing(studio, loras):
    with TestClient(make_app(studio), base_url="http://localhost:8642") as client:
        answer = post(client, "/api/runs", {"captions": CAPTIONS, "loras": loras})
    assert answer.status_code == 400
    assert not [p for p in studio.versions.root.iterdir() if not p.name.startswith(".")]
