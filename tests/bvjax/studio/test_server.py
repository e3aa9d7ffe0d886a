"""The routes: a run from the page's point of view, and requests that mean no good."""

import io
import json
import time

import numpy as np
import PIL.Image
import pytest
from starlette.testclient import TestClient

from bvjax.media.video_io import VideoWriter
from bvjax.runs.create import create_run
from bvjax.runs.execute import Progress
from bvjax.runs.report.drift_report import ChunkDrift
from bvjax.runs.run_dir import RunDir
from bvjax.story import Story
from bvjax.studio import fragments, making, previews
from bvjax.studio.server import make_app
from bvjax.studio.studio import Studio
from tests.bvjax.studio.conftest import CAPTIONS

SOCKET = "ws://localhost:8642/ws"


def post(client, path, content=None, **headers):
    text = content if isinstance(content, str | bytes) else json.dumps(content or {})
    return client.post(path, content=text, headers={"Content-Type": "application/json", **headers})


def finished(client, name):
    for _ in range(2000):
        now = client.get(f"/api/runs/{name}").json()
        if now["now"]["state"] not in ("waiting", "working"):
            assert now["now"]["state"] == "finished", now["now"]
            return now
        time.sleep(0.02)
    raise AssertionError("it is never finished")


def pieces(client, name, count, have=(), **options):
    """{chunk: (message, payload)} of the first `count` pieces that the socket sends."""
    found = {}
    with client.websocket_connect(SOCKET) as socket:
        socket.send_text(
            json.dumps({"type": "watch", "runs": [name], "have": list(have), **options})
        )
        while len(found) < count:
            message = socket.receive()
            said = json.loads(message.get("text") or "{}")
            assert said.get("state") != "failed", said
            if message.get("bytes"):
                size = int.from_bytes(message["bytes"][:4], "big")
                head = json.loads(message["bytes"][4 : 4 + size])
                if head["type"] == "chunk":
                    found[head["chunk"]] = (head, message["bytes"][4 + size :])
    return found


def stand_in(run, bundle, watch=None):
    """`execute` without a network: latents that depend on caption and seed, and the files of a whole run."""
    done, chunk = run.load_latents(run.latent_ids()), run.settings.model.chunk
    with VideoWriter(run.video, chunk.fps, run.settings.scale) as writer:
        for i in run.latent_ids():
            number = run.number_of(i)
            key = f"{run.captions[max(number, 1) - 1]} {run.settings.seed_of(i)} {i}"
            rng = np.random.default_rng(list(key.encode()))
            shape = (run.grid.piece_latents(i), *run.grid.latent_size, run.settings.model.vae.z_dim)
            latents = done.get(i, rng.normal(size=shape).astype(np.float32))
            if i not in done:
                run.save_latents(i, latents)
            frames = rng.integers(0, 255, (chunk.frames if i else 1, 32, 32, 3), np.uint8)
            writer.write(frames)
            drift = (lambda: ChunkDrift(1.0, 2.0, (3.0, 4.0, 5.0), 0.5, None)) if i else None
            yield Progress(number, i not in done, {"generate": 1.0}, frames, latents, None, drift)
    run.save_bytes("report.png", b"")
    run.save_json("report.json", {"chunks_done": len(run.captions)})


@pytest.fixture(params=["stand-in", pytest.param("model", marks=pytest.mark.slow)])
def real(request, monkeypatch):
    """Whether chunks are made by the model."""
    if request.param == "stand-in":
        monkeypatch.setattr(making, "execute", stand_in)
        monkeypatch.setattr(previews, "watch_of", lambda *given: None)
    return request.param == "model"


def test_a_run_from_the_page(client, studio, pipeline, real):
    """Made while it is watched; redone, taken back, branched; found again by another server."""
    asked = {"title": "Pip", "captions": CAPTIONS, "seed": 3, "settings": {"sampler.steps": 3}}
    name = post(client, "/api/runs", asked).json()["name"]
    seen = pieces(client, name, 3)
    now = finished(client, name)
    assert [(seen[n][0]["start"], seen[n][0]["length"]) for n in range(3)] == [
        (0.0, 0.125), (0.125, 1.0), (1.125, 1.0)
    ]  # fmt: skip
    assert all(
        b"moof" in payload and head["codec"][:5] == "avc1." for head, payload in seen.values()
    )
    assert {n: head["key"] for n, (head, _) in seen.items()} == {
        int(n): piece["key"] for n, piece in now["pieces"].items()
    }
    assert now["settings"]["sampler.steps"] == 3 and now["overrides"] == ["sampler.steps=3"]
    assert set(now["pieces"]["2"]["drift"]) >= {"clarity", "motion"}
    if real:
        assert {entry["chunk"] for entry in now["pieces"]["2"]["retrieved"]} == {0, 1}
    assert set(pieces(client, name, 1, have=[seen[0][0]["key"], seen[1][0]["key"]])) == {2}
    shown = pieces(client, name, 3, pictures=True)[1]
    assert len(shown[0]["sizes"]) == 8 and sum(shown[0]["sizes"]) == len(shown[1])
    assert PIL.Image.open(io.BytesIO(shown[1][: shown[0]["sizes"][0]])).format == "JPEG"
    still = client.get(f"/api/runs/{name}/still/2")
    assert PIL.Image.open(io.BytesIO(still.content)).size == (256, 256)

    other = post(
        client, f"/api/runs/{name}/branch", {"from_chunk": 2, "captions": ["Pip walks off."]}
    )
    other = other.json()["name"]
    branched = finished(client, other)
    assert (branched["parent"], branched["from_chunk"]) == (name, 2)
    assert branched["captions"] == [CAPTIONS[0], "Pip walks off."]
    assert branched["pieces"]["1"]["key"] == now["pieces"]["1"]["key"]
    assert branched["pieces"]["2"]["key"] != now["pieces"]["2"]["key"]

    assert post(client, f"/api/runs/{name}/redo", {"from_chunk": 2, "seed": 4}).status_code == 200
    again = finished(client, name)
    assert again["rerolls"] == [[2, 4]]
    assert again["pieces"]["2"]["key"] != now["pieces"]["2"]["key"]

    assert post(client, f"/api/runs/{name}/take-back", {"keep": 1}).status_code == 200
    back = client.get(f"/api/runs/{name}").json()
    assert sorted(back["pieces"]) == ["0", "1"] and not back["finished"]
    longer = [CAPTIONS[0], "Pip waves.", "Pip walks off."]
    assert post(client, f"/api/runs/{name}/captions", {"captions": longer}).status_code == 200
    assert client.get(f"/api/runs/{name}").json()["captions"] == longer
    refused = post(client, f"/api/runs/{name}/captions", {"captions": ["x", *longer[1:]]})
    assert refused.status_code == 400 and "caption 1 cannot be edited" in refused.json()["error"]

    with TestClient(
        make_app(Studio(pipeline, studio.versions.root)), base_url="http://localhost"
    ) as later:
        runs = {run["name"]: run for run in later.get("/api/runs").json()["runs"]}
        assert runs[other]["finished"] and runs[other]["parent"] == name and runs[name]["done"] == 1
        download = later.get(f"/api/runs/{other}/file/video.mp4?download")
        assert b"moov" in download.content
        assert download.headers["content-disposition"] == f'attachment; filename="{other}.mp4"'
        post(later, f"/api/runs/{name}/go")
        assert finished(later, name)["done"] == 3


def test_pieces_come_out_of_a_video_that_was_made_elsewhere(client, studio, pipeline):
    """The pieces of a run that the studio did not make are cut out of its video.mp4, at the very frames."""
    path = studio.versions.root / "elsewhere"
    with create_run(pipeline.bundle, pipeline.model, Story(tuple(CAPTIONS)), path) as run:
        made = list(stand_in(run, pipeline.bundle))
    seen = pieces(client, "elsewhere", 3)
    for progress in made:
        shown = list(fragments.decode(seen[progress.chunk][1]))
        assert len(shown) == len(progress.frames)
        for picture, frame in zip(shown, progress.frames, strict=True):
            small = picture.reshape(32, 8, 32, 8, 3).mean((1, 3))
            assert np.abs(small - frame).mean() < np.abs(small - frame[::-1]).mean() / 2
    assert client.get("/api/runs/elsewhere").json()["finished"]


def test_runs_of_the_command_line(client, studio, pipeline):
    """Any run folder is found; folders that are none, or damaged, are left out, and links lead nowhere."""
    root = studio.versions.root
    story = Story(tuple(CAPTIONS))
    create_run(pipeline.bundle, pipeline.model, story, root / "Größe 1").close()
    (root / "not a run").mkdir()
    damaged = root / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{}")
    (damaged / "story.json").write_text('{"title": "", "captions": ["x"]}')
    outside = root.parent / f"{root.name}-outside"
    create_run(pipeline.bundle, pipeline.model, story, outside).close()
    (root / "link").symlink_to(outside)
    assert [run["name"] for run in client.get("/api/runs").json()["runs"]] == ["Größe 1"]
    assert client.get("/api/runs/Größe 1").json()["now"]["state"] == "idle"
    assert client.get("/api/runs/link").status_code == 404
    assert client.get("/api/runs/damaged").status_code == 400
    with RunDir.open(root / "Größe 1"):  # another process works on it
        post(client, "/api/runs/Größe 1/go")
        for _ in range(1000):
            now = client.get("/api/runs/Größe 1").json()["now"]
            if now["state"] == "failed":
                break
            time.sleep(0.01)
    assert "another process works on the run" in now["error"]


@pytest.mark.parametrize(
    "path",
    ["/api/runs/..", "/api/runs/../file/config.json", "/api/runs/%2e%2e", "/api/runs/..%2f..%2fetc",
     "/api/runs/.studio", "/api/runs/x%00", "/api/runs/run/file/config.json", "/api/runs/run/file/.lock",
     "/api/runs/run/file/..%2fstory.json", "/api/runs/run/still/99999999999999999999",
     "/api/runs/run/still/-1", "/api/runs/" + "a" * 5000, "/app.py", "/../server.py", "/static/app.js"],
)  # fmt: skip
def test_paths_that_lead_out(client, studio, pipeline, path):
    create_run(
        pipeline.bundle, pipeline.model, Story(tuple(CAPTIONS)), studio.versions.root / "run"
    ).close()
    for method in ("GET", "POST"):
        answer = client.request(method, path, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 404, 405), answer.text


BAD = [
    "", "{", "[]", "null", "[" * 10000, '{"captions": NaN}', '{"captions": []}', b"\xff\xfe\x00",
    '{"captions": ["x"], "more": 1}', '{"captions": "x"}', '{"captions": [3]}', '{"captions": [" "]}',
    '{"captions": ["\\ud800"]}', json.dumps({"captions": ["x" * 3000]}), json.dumps({"captions": ["x"] * 901}),
    '{"captions": ["x"], "title": 3}', '{"captions": ["x"], "seed": -1}', '{"captions": ["x"], "seed": 1e99}',
    '{"captions": ["x"], "seed": true}', '{"captions": ["x"], "settings": []}',
    '{"captions": ["x"], "settings": {"memory.slots": 4}}', '{"captions": ["x"], "settings": {"sampler.steps": 1e9}}',
    '{"captions": ["x"], "settings": {"sampler.steps": "4"}}', '{"captions": ["x"], "settings": {"retrieval.kind": []}}',
    '{"captions": ["x"], "image": "../../etc/passwd"}', '{"captions": ["x"], "video": ["a"]}',
    '{"captions": ["x"], "video_chunks": 0}',
]  # fmt: skip


@pytest.mark.parametrize("body", BAD)
def test_requests_that_are_no_story(client, studio, body):
    answer = post(client, "/api/runs", body)
    assert answer.status_code == 400 and len(answer.json()["error"]) < 400
    assert [p.name for p in studio.versions.root.iterdir() if not p.name.startswith(".")] == []


def test_forms_of_other_pages_are_refused(client):
    """What a page of another site can send without asking: no JSON, or its own Origin."""
    body = json.dumps({"captions": ["x"]})
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ):
        assert client.post("/api/runs", content=body, headers=headers).status_code == 400
    assert post(client, "/api/runs", body, Origin="http://evil.example").status_code == 403
    assert client.post("/api/uploads?kind=image", content=b"GIF89a").status_code == 400
    assert client.delete("/api/runs").status_code == 405


@pytest.mark.parametrize(
    "message", ["", "{", '{"runs": "a"}', '{"runs": ["a","b","c","d","e"]}', '{"have": [3]}', '{"x": 1}',
                '{"runs": ["../.."]}', '{"runs": [".studio"]}'],
)  # fmt: skip
def test_messages_that_mean_nothing(client, message):
    with client.websocket_connect(SOCKET) as socket:
        socket.send_text(message)
        assert json.loads(socket.receive_text())["type"] == "error"
        socket.send_text('{"type": "watch", "runs": []}')  # it is still there
    with client.websocket_connect(SOCKET) as socket:
        socket.send_bytes(b"\0" * 10)


def test_words_and_stories(client):
    found = post(client, "/api/words", {"captions": [CAPTIONS[0], "Pip rides a zeppelin."]}).json()
    assert found["unknown"] == [[], ["rides", "zeppelin"]] and found["most_tokens"] == 64
    timed = {"title": "T", "captions": ["Pip waves (00s - 01s).", "Pip sits (02s - 02s)."]}
    story = post(client, "/api/story", {"story": timed}).json()
    assert story == {"title": "T", "captions": ["Pip waves.", "Pip waves.", "Pip sits."]}
    assert post(client, "/api/story", {"story": {"captions": 3}}).status_code == 400


def test_the_page_is_served(client):
    for path, kind in (
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/style.css", "text/css"),
    ):
        assert client.get(path).headers["content-type"].startswith(kind)
    about = client.get("/api/about").json()
    assert about["model"] == "tiny" and {s["key"] for s in about["switches"]} >= {"sampler.steps"}
