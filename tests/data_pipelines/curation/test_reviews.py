"""Human review: decisions that outlive kills, agreement by published examples, and the server over HTTP."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from urllib.parse import quote

import av
import pytest

from bvjax.errors import UserError
from data_pipelines.curation import review_rows
from data_pipelines.curation import reviews as reviews_module
from data_pipelines.curation.review_server import make_server
from data_pipelines.curation.reviews import Reviews, agreement, cohen, decision_of, fleiss
from data_pipelines.curation.rows import is_kept
from data_pipelines.curation.settings import Review, Settings
from data_pipelines.review import main
from tests.data_pipelines.curation.footage import FPS, film, pan

ODD = "a\n#1.000"


def said(chunk, verdict="accept", caption="A fox.", reason="", was="A fox."):
    reason = reason or ("other" if verdict == "reject" else "")
    return decision_of(
        {"id": chunk, "verdict": verdict, "caption": caption, "reason": reason, "was": was}
    )


def test_kappas_of_published_examples():
    """Cohen: the table 20, 5, 10, 15 (0.4); Fleiss: 14 raters, 10 subjects, 5 kinds (0.210, Fleiss 1971)."""
    first = ["y"] * 25 + ["n"] * 25
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohen(first, second) == pytest.approx(0.4)
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert fleiss(table) == pytest.approx(0.210, abs=5e-4)
    assert cohen(["y"], ["y"]) is cohen([], []) is fleiss([]) is fleiss([[1, 0]]) is None


def test_agreement_of_three(tmp_path):
    reviews = Reviews(tmp_path)
    for name, verdicts in {"ann": "aarr", "bob": "aara", "cy": "ar"}.items():
        for number, letter in enumerate(verdicts):
            reviews.add(name, said(f"c{number}", {"a": "accept", "r": "reject"}[letter]))
    found = agreement(Reviews(tmp_path).all())
    assert [p["chunks"] for p in found["pairs"]] == [4, 2, 2]
    assert found["pairs"][0]["cohen"] == pytest.approx(0.5)
    assert (found["fleiss reviewers"], found["fleiss chunks"]) == (2, 2)


def test_nothing_said_is_lost(tmp_path):
    reviews = Reviews(tmp_path)
    reviews.add("ann", said("c0"))
    reviews.add("ann", said("c1", "reject", reason="a  cut\ninside"))
    reviews.add("ann", said("c0", "reject"))
    assert reviews.undo("ann") == "c0" and reviews.undo("bob") is None
    expected = {"c0": said("c0"), "c1": said("c1", "reject", reason="a cut inside")}
    assert reviews.of("ann") == Reviews(tmp_path).of("ann") == expected
    path = tmp_path / "review" / "ann.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": "c2", "verd')  # killed here
    again = Reviews(tmp_path)
    assert again.of("ann") == expected
    again.add("ann", said("c3"))
    assert Reviews(tmp_path).of("ann") == expected | {"c3": said("c3")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "maybe"}, "the verdict is 'maybe'; it can be accept or reject"),
        ({"verdict": "reject"}, "a rejection needs a reason"),
        ({"caption": " "}, "its answer is empty"),
        ({"id": 3}, "which are text"),
        ({"reviewer": "../x"}, "a reviewer's name is of letters"),
    ],
)
def test_decisions_that_are_none(tmp_path, change, message):
    content = {"id": "c", "verdict": "accept", "caption": "A fox.", "was": ""} | change
    with pytest.raises(UserError, match=message):
        Reviews(tmp_path).add(content.get("reviewer", "ann"), decision_of(content))
    assert not [*tmp_path.rglob("*.jsonl")]


def take(count=4):
    chunks = [
        {"id": f"t.{i}", "start": 1 + 8 * i, "stop": 9 + 8 * i, "caption": "A fox."}
        for i in range(count)
    ]
    return {"id": "t", "film": "t", "path": "", "first": 0, "chunks": chunks}


def applied(root, **review):
    return review_rows.apply([take()], Settings(review=Review(**review)), root)


def test_decisions_are_applied(tmp_path):
    (row,) = applied(tmp_path)
    assert [c["reviewers"] for c in row["chunks"]] == [0] * 4
    before = review_rows.inputs([take()], Settings(), tmp_path)
    reviews = Reviews(tmp_path)
    reviews.add("ann", said("t.0", caption="A red fox."))
    reviews.add("ann", said("t.1", "reject"))
    reviews.add("bob", said("t.1"))
    reviews.add(
        "bob", said("t.3", "reject", was="Another caption.")
    )  # of one that is no longer there
    assert review_rows.inputs([take()], Settings(), tmp_path) != before
    first, last = applied(tmp_path)
    assert (first["id"], is_kept(first), first["chunks"][0]["caption"]) == (
        "t.0-000",
        False,
        "A red fox.",
    )
    assert (last["id"], is_kept(last), last["first"]) == ("t.2-003", True, 16)
    (row,) = applied(tmp_path, reject="majority")
    assert len(row["chunks"]) == 4
    assert not any(is_kept(row) for row in applied(tmp_path, reviewers=1))


def test_decisions_are_read_once_for_any_number_of_films(tmp_path, monkeypatch):
    Reviews(tmp_path).add("ann", said("t.0", "reject"))
    calls, whole = [], reviews_module._history
    monkeypatch.setattr(reviews_module, "_history", lambda path: calls.append(path) or whole(path))
    for _ in range(20):
        review_rows.inputs([take()], Settings(), tmp_path)
        assert applied(tmp_path)[0]["id"] == "t.1-003"
    assert len(calls) == 1
    Reviews(tmp_path).undo("ann")
    assert applied(tmp_path)[0]["id"] == "t"


@pytest.fixture
def desk(tmp_path):
    path = film(tmp_path / "f.mkv", pan(1, 48))
    (tmp_path / "keyframes" / ("0" * 24)).mkdir(parents=True)
    keyframe = f"keyframes/{'0' * 24}/0000_0.jpg"
    (tmp_path / keyframe).write_bytes(b"\xff\xd8")
    chunks = [
        {
            "id": name,
            "start": 1 + 8 * i,
            "stop": 9 + 8 * i,
            "caption": "A fox.",
            "keyframes": [keyframe],
        }
        for i, name in enumerate((ODD, "b"))
    ]
    row = {"id": "t", "film": "a\nf", "path": str(path), "rate": 8, "first": 0, "chunks": chunks}
    gone = row | {
        "chunks": [chunks[0] | {"id": "gone"}],
        "dropped": {"stage": "quality", "kind": "", "why": ""},
    }
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(gone) + "\n")
    server = make_server(tmp_path)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def ask(url, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def test_a_review_over_http(desk):
    root, url = desk
    assert b"<!doctype html>" in ask(url)[1]
    content = json.loads(ask(f"{url}/api/chunks?reviewer=ann")[1])
    assert [(c["id"], c["seconds"], c["decision"]) for c in content["chunks"]] == [
        (ODD, [0.12, 1.12], None),
        ("b", [1.12, 2.12], None),
    ]
    decision = {
        "reviewer": "ann",
        "id": ODD,
        "verdict": "accept",
        "caption": "A red\nfox.",
        "was": "A fox.",
    }
    assert ask(f"{url}/api/decide", decision)[0] == 200
    assert Reviews(root).of("ann")[ODD].caption == "A red fox."  # on the disk
    mine = json.loads(ask(f"{url}/api/chunks?reviewer=ann")[1])["chunks"]
    assert mine[0]["decision"]["verdict"] == "accept"
    assert json.loads(ask(f"{url}/api/chunks?reviewer=bob")[1])["chunks"][0]["decision"] is None
    ask(f"{url}/api/decide", decision | {"reviewer": "bob", "verdict": "reject", "reason": "other"})
    found = json.loads(ask(f"{url}/api/agreement")[1])
    assert found["pairs"] == [{"reviewers": ["ann", "bob"], "chunks": 1, "cohen": 0.0}]
    assert json.loads(ask(f"{url}/api/undo", {"reviewer": "ann"})[1]) == {"undone": ODD}
    assert json.loads(ask(f"{url}/api/undo", {"reviewer": "ann"})[1]) == {"undone": None}


def test_a_chunk_is_played(desk):
    root, url = desk
    code, content, headers = ask(f"{url}/clip?id={quote(ODD)}")
    assert code == 200 and headers["Content-Type"] == "video/mp4"
    (root / "clip.mp4").write_bytes(content)
    with av.open(str(root / "clip.mp4")) as clip:
        assert clip.streams.video[0].frames == 8 and clip.streams.video[0].average_rate == FPS // 2
    code, part, headers = ask(f"{url}/clip?id={quote(ODD)}", Range="bytes=5-9")
    assert (code, part, headers["Content-Range"]) == (
        206,
        content[5:10],
        f"bytes 5-9/{len(content)}",
    )
    assert ask(f"{url}/clip?id={quote(ODD)}", Range="bytes=-4")[1] == content[-4:]
    assert ask(f"{url}/clip?id={quote(ODD)}", Range="bytes=999999999-")[0] == 416
    assert ask(f"{url}/keyframe?name=keyframes/{'0' * 24}/0000_0.jpg")[1] == b"\xff\xd8"


def test_what_is_refused(desk):
    root, url = desk
    decision = {"reviewer": "ann", "id": "b", "verdict": "accept", "caption": "A fox.", "was": ""}
    for path in (
        "/keyframe?name=../../etc/passwd",
        "/keyframe?name=manifest.jsonl",
        "/clip?id=gone",
        "/api/chunks",
    ):
        assert ask(url + path)[0] == 400
    assert ask(f"{url}/nothing")[0] == 404
    assert ask(f"{url}/api/decide", decision | {"id": "gone"})[0] == 400
    assert ask(f"{url}/api/decide", decision | {"reviewer": "../ann"})[0] == 400
    assert ask(f"{url}/api/decide", decision, **{"Content-Type": "text/plain"})[0] == 400
    assert ask(f"{url}/api/decide", [decision])[0] == 400
    assert ask(f"{url}/api/chunks?reviewer=ann", Host="evil.example:80")[0] == 403
    assert not (root / "review").exists()


def test_there_must_be_something_to_review(tmp_path, capsys):
    assert main([f"--data={tmp_path}"]) == 2
    assert "manifest.jsonl" in capsys.readouterr().err
    (tmp_path / "manifest.jsonl").write_text("{}\n")
    assert main([f"--data={tmp_path}"]) == 2
    assert "has no chunks with captions" in capsys.readouterr().err
    assert main([f"--data={tmp_path}", "--port=70000"]) == 2
