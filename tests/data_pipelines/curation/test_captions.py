"""Captions from a server that speaks the protocol: what is asked, what is kept, and answers of all kinds."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bvjax.errors import UserError, WorkError
from data_pipelines.curation import captions
from data_pipelines.curation.captions import align, caption_list, caption_rows, describe, dry_run
from data_pipelines.curation.endpoint import CACHE, Endpoint
from data_pipelines.curation.rows import is_kept
from data_pipelines.curation.settings import Captions, Settings

KEY = "sk-very-secret"
JPEG = b"\xff\xd8picture "


def chat(text, tokens=(100, 7)):
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return 200, json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode()


@contextlib.contextmanager
def server(answers):
    """A server that gives `answers(body)` or the next of a list: (code, content, headers...); and what it was asked."""
    asked, given = [], iter(answers) if isinstance(answers, list) else None

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, dict(self.headers), None))
            self.answer(200, json.dumps({"data": [{"id": "a-model"}, {"id": "other"}]}).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, dict(self.headers), body))
            self.answer(*(answers(body) if given is None else next(given)))

        def answer(self, code, content, headers=()):
            self.send_response(code)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}/v1", asked
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture
def take(tmp_path):
    chunks = []
    for i in range(3):
        for j in range(2):
            (tmp_path / f"{i}_{j}.jpg").write_bytes(JPEG + bytes([i, j]))
        chunks.append(
            {
                "id": f"t.{i}",
                "start": i,
                "stop": i + 1,
                "caption": "",
                "keyframes": [f"{i}_0.jpg", f"{i}_1.jpg"],
            }
        )
    return {"id": "t", "film": "t", "path": "", "first": 0, "chunks": chunks}


def endpoint(url, root, waits=None, **more):
    settings = Captions(endpoint=url, retries=3, timeout=5, **more)
    return Endpoint(settings, root, sleep=(waits if waits is not None else []).append)


def test_chunks_are_described_one_after_the_other(take, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    counter = iter(range(9))
    with server(lambda body: chat(f' "Caption\n{next(counter)}."')) as (url, asked):
        row = describe(take, endpoint(url, tmp_path))
        again = describe(take, endpoint(url, tmp_path))
    assert [c["caption"] for c in row["chunks"]] == ["Caption 0.", "Caption 1.", "Caption 2."]
    assert again == row and row["tokens"] == {"input": 300, "output": 21, "requests": 3}
    (path, headers, _), *posts = asked
    assert path == "/v1/models" and len(posts) == 3  # the second time all of it was in the cache
    for number, (path, headers, body) in enumerate(posts):
        assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
        assert body["model"] == "a-model" and body["max_tokens"] == 512
        (message,) = body["messages"]
        text, *pictures = message["content"]
        before = "nothing, this is the first" if not number else f"Caption {number - 1}."
        assert f'described as: "{before}"' in text["text"] and "The 2 pictures" in text["text"]
        for j, picture in enumerate(pictures):
            head, content = picture["image_url"]["url"].split(",")
            assert head == "data:image/jpeg;base64"
            assert base64.b64decode(content) == JPEG + bytes([number, j])
    for path in (tmp_path / CACHE).rglob("*.json"):
        assert KEY not in path.read_text()


def test_another_picture_is_asked_for_again(take, tmp_path):
    with server(lambda body: chat("A fox.")) as (url, asked):
        describe(take, endpoint(url, tmp_path, model="m"))
        assert len(asked) == 3
        (tmp_path / "2_1.jpg").write_bytes(JPEG)
        describe(take, endpoint(url, tmp_path, model="m"))
        assert len(asked) == 4
        for answer in (tmp_path / CACHE).rglob("*.json"):  # damaged ones as well
            answer.write_text("{")
        describe(take, endpoint(url, tmp_path, model="m"))
        assert len(asked) == 4 + 3


@pytest.mark.parametrize(
    ("bad", "waits"),
    [
        ((500, b"oops"), [1]),
        ((429, b"", {"Retry-After": "7"}), [7]),
        ((200, b"<html>"), [1]),
        ((200, b'{"choices": []}'), [1]),
        ((200, b"[1]"), [1]),
        (chat(""), [1]),
        (chat("x" * 5000), [1]),
        ((200, b'{"choices": [{"message": {"content": 3}}]}'), [1]),
    ],
)
def test_what_goes_wrong_once_is_asked_again(take, tmp_path, bad, waits):
    take["chunks"] = take["chunks"][:1]
    slept = []
    with server([bad, chat("A fox.")]) as (url, asked):
        row = describe(take, endpoint(url, tmp_path, slept, model="m"))
    assert row["chunks"][0]["caption"] == "A fox." and len(asked) == 2
    assert len(slept) == 1 and (slept == waits or 0 < slept[0] <= waits[0])


@pytest.mark.parametrize(
    ("answer", "message", "requests"),
    [
        ((401, f"bad key {KEY}".encode()), "refuses: 401 Unauthorized: bad key ***", 1),
        ((302, b"", {"Location": "http://127.0.0.1:1/"}), "refuses: 302", 1),
        ((503, b"busy"), "cannot be asked: 503 Service Unavailable: busy", 4),
        (chat("   "), "answers nonsense: its answer is empty", 4),
    ],
)
def test_what_goes_wrong_always_is_told(take, tmp_path, monkeypatch, answer, message, requests):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with server(lambda body: answer) as (url, asked), pytest.raises(WorkError) as error:
        describe(take, endpoint(url, tmp_path, model="m"))
    assert (
        message in str(error.value) and KEY not in str(error.value) and "\n" not in str(error.value)
    )
    assert len(asked) == requests


def test_nobody_listens(take, tmp_path):
    slept = []
    with pytest.raises(WorkError, match="cannot be asked: .*refused"):
        describe(take, endpoint("http://127.0.0.1:1/v1", tmp_path, slept, model="m"))
    assert len(slept) == 3 and slept[0] < slept[1] < slept[2]  # longer each time


def told(take):
    return {
        **take,
        "captioned": "model",
        "chunks": [{**c, "caption": f"Old {i}."} for i, c in enumerate(take["chunks"])],
    }


def test_a_story_is_made_of_captions(take, tmp_path):
    answer = 'Here:\n```json\n["One.", "Two\\n2.", "Three."]\n```'
    with server(lambda body: chat(answer)) as (url, asked):
        row = align(told(take), endpoint(url, tmp_path, model="m"))
    assert [c["caption"] for c in row["chunks"]] == ["One.", "Two 2.", "Three."]
    assert [c["alone"] for c in row["chunks"]] == ["Old 0.", "Old 1.", "Old 2."]
    text = asked[0][2]["messages"][0]["content"][0]["text"]
    assert "1. Old 0.\n2. Old 1.\n3. Old 2.\n" in text and "exactly 3 strings" in text
    assert row["aligned"] == "" and row["tokens"]["requests"] == 1


def test_what_cannot_be_aligned_stays(take, tmp_path):
    answers = [chat('["One."]'), chat("no list"), chat('["One.", 2, ""]')]
    with server(answers) as (url, asked):
        row = align(told(take), endpoint(url, tmp_path, model="m"))
    assert [c["caption"] for c in row["chunks"]] == ["Old 0.", "Old 1.", "Old 2."] and len(
        asked
    ) == 3
    assert row["aligned"] == "not aligned: the answer is not a list of strings"
    with pytest.raises(UserError, match="has 2 captions, not 3"):
        caption_list('["a", "b"]', 3)


def test_a_dry_run_sends_nothing(take, tmp_path):
    settings = Captions(endpoint="http://127.0.0.1:1/v1", model="m")
    shown = dry_run([take], settings, tmp_path)
    assert [s["id"] for s in shown] == ["t.0", "t.1", "t.2"] and shown[0]["model"] == "m"
    text, picture, _ = shown[1]["messages"][0]["content"]
    assert "{the description of the chunk before}" in text["text"]
    assert picture["image_url"]["url"] == "data:image/jpeg;base64,... (16 characters)"


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Settings(captions=Captions(file=str(path)))


def test_captions_by_hand(take, tmp_path):
    lines = [{"id": f"t.{i}", "caption": f"Hand\n{i}."} for i in range(3)]
    settings = write(tmp_path / "c.jsonl", *lines)
    (row,) = caption_rows([take], settings, tmp_path)
    assert [c["caption"] for c in row["chunks"]] == ["Hand 0.", "Hand 1.", "Hand 2."]
    before = captions.inputs([take], settings)
    settings = write(
        tmp_path / "c.jsonl", *lines[:2], {"id": "t.2", "caption": " "}, {"id": "u", "caption": "x"}
    )
    assert captions.inputs([take], settings) != before
    (row,) = caption_rows([take], settings, tmp_path)
    assert row["id"] == "t.0-001" and len(row["chunks"]) == 2 and is_kept(row)
    for line in ([1], {"id": 3, "caption": "x"}, {"id": "t.0", "caption": 5}):
        with pytest.raises(UserError, match="c.jsonl, line 1"):
            caption_rows([take], write(tmp_path / "c.jsonl", line), tmp_path)


def test_captions_are_read_once_for_any_number_of_films(take, tmp_path, monkeypatch):
    settings = write(tmp_path / "c.jsonl", {"id": "t.0", "caption": "x"})
    read, calls = captions.read_json_lines, []
    monkeypatch.setattr(captions, "read_json_lines", lambda *a: calls.append(a) or read(*a))
    for _ in range(20):
        captions.inputs([take], settings)
        caption_rows([take], settings, tmp_path)
    assert len(calls) == 1
