"""Runs deleted for good: what branches from them stays whole, and nothing outside the folder is touched."""

import json
import time

import pytest

from bvjax.runs.branch import Origin, branch
from bvjax.runs.create import create_run
from bvjax.runs.run_dir import RunDir
from bvjax.story import Story
from bvjax.studio import jobs as jobs_module
from bvjax.studio import making, previews
from tests.bvjax.studio.conftest import CAPTIONS
from tests.bvjax.studio.test_server import SOCKET, finished, post, stand_in


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(making, "execute", stand_in)
    monkeypatch.setattr(previews, "watch_of", lambda *given: None)


@pytest.fixture
def make(studio, pipeline):
    """make(name) is the folder of a whole run; make(name, parent, chunk) of one that branches from it."""

    def made(name, parent=None, chunk=2):
        path = studio.versions.root / name
        if parent is None:
            story = Story(tuple(CAPTIONS), title=name)
            run = create_run(pipeline.bundle, pipeline.model, story, path)
        else:
            with RunDir.open(studio.versions.root / parent) as old:
                run = branch(old, pipeline.bundle, path, chunk, ["Pip sits."], 7)
        with run:
            for progress in stand_in(run, pipeline.bundle):
                making.tell_chunk(run, studio.versions.store, progress, lambda event: None)
        return path

    return made


def files(path):
    return {p.name: p.read_bytes() for p in path.rglob("*") if p.is_file()}


def stored(studio):
    return {p.name for p in (studio.versions.root / ".studio" / "chunks").glob("*.mp4")}


def test_a_branch_outlives_what_it_came_from(client, studio, pipeline, make):
    make("first"), make("second", "first"), make("third", "second", 3)
    before = {name: files(studio.versions.root / name) for name in ("second", "third")}
    told = {name: client.get(f"/api/runs/{name}").json() for name in before}
    refused = post(client, "/api/runs/first/delete", {"confirm": "first"})
    assert refused.status_code == 400 and "second branch from first" in refused.json()["error"]
    assert client.get("/api/runs/first").json()["branches"] == ["second"]
    sure = {"confirm": "first", "keep_branches": True}
    assert post(client, "/api/runs/first/delete", sure).status_code == 200
    assert not (studio.versions.root / "first").exists()
    assert client.get("/api/runs/first").status_code == 404
    for name, old in before.items():
        new = files(studio.versions.root / name)
        if name == "second":
            old.pop("branch.json")
        assert new == old
        now = client.get(f"/api/runs/{name}").json()
        assert now["pieces"] == told[name]["pieces"] and now["finished"]
    assert client.get("/api/runs/second").json()["parent"] is None
    with RunDir.open(studio.versions.root / "second") as run:  # as the command line would
        assert all(not progress.fresh for progress in stand_in(run, pipeline.bundle))


def test_branches_of_a_branch_become_those_of_its_origin(client, studio, make):
    make("first"), make("second", "first", 2), make("third", "second", 3)
    sure = {"confirm": "second", "keep_branches": True}
    assert post(client, "/api/runs/second/delete", sure).status_code == 200
    assert studio.versions.find("third").origin == Origin("first", 2)


def test_pieces_that_nobody_has_any_more_go_too(client, studio, make):
    make("first")
    own = stored(studio)
    make("second", "first", 2)
    shared = stored(studio)
    assert len(own) == 3 and len(shared) == 4
    post(client, "/api/runs/second/delete", {"confirm": "second"})
    assert stored(studio) == own
    post(client, "/api/runs/first/delete", {"confirm": "first"})
    assert stored(studio) == set()
    assert [p.name for p in (studio.versions.root / ".studio").iterdir()] == ["chunks"]


@pytest.mark.parametrize(
    "content", [{}, {"confirm": "First"}, {"confirm": ""}, {"confirm": ["first"]}, {"confirm": True},
                {"confirm": "first", "path": "/"}],
)  # fmt: skip
def test_what_does_not_confirm(client, make, content):
    path = make("first")
    assert post(client, "/api/runs/first/delete", content).status_code == 400
    assert path.is_dir()


def test_nothing_outside_is_touched(client, studio, make):
    """Links to other folders, and from inside a run to others; a run that another process works on."""
    path, root = make("first"), studio.versions.root
    outside = root.parent / f"{root.name}-kept"
    outside.mkdir()
    (outside / "file").write_text("kept")
    (path / "latents" / "link").symlink_to(outside)
    (root / "link").symlink_to(outside)
    for name in ("link", "..", ".studio", "%2e%2e"):
        answer = post(client, f"/api/runs/{name}/delete", {"confirm": name})
        assert answer.status_code in (404, 405)
    with RunDir.open(path):
        refused = post(client, "/api/runs/first/delete", {"confirm": "first"})
        assert refused.status_code == 400 and "another process" in refused.json()["error"]
    assert path.is_dir()
    assert post(client, "/api/runs/first/delete", {"confirm": "first"}).status_code == 200
    assert not path.exists() and (outside / "file").read_text() == "kept"


def test_a_run_in_the_making_is_deleted_after_the_chunk_at_work(client, studio, monkeypatch):
    going, follow = [], jobs_module.follow

    def slow(*given, **named):
        for progress in follow(*given, **named):
            going.append(progress.chunk)
            time.sleep(0.2)
            yield progress

    monkeypatch.setattr(jobs_module, "follow", slow)
    name = post(client, "/api/runs", {"title": "Pip", "captions": CAPTIONS}).json()["name"]
    with client.websocket_connect(SOCKET) as socket:
        socket.send_text(f'{{"type": "watch", "runs": ["{name}"]}}')
        while not going:
            time.sleep(0.01)
        assert post(client, f"/api/runs/{name}/delete", {"confirm": name}).status_code == 200
        said = []
        while "deleted" not in said:
            message = socket.receive()
            if message.get("text"):
                said.append(json.loads(message["text"])["type"])
    assert len(going) < 3 and not (studio.versions.root / name).exists()
    assert client.get("/api/runs").json()["runs"] == []
    again = post(client, "/api/runs", {"title": "Pip", "captions": CAPTIONS}).json()["name"]
    assert again == name and finished(client, again)["parent"] is None
