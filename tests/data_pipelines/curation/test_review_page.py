"""The page of reviewers in a browser, by its keys; the server is killed while somebody reviews."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("websockets")

import chromium

from data_pipelines.curation.reviews import Reviews
from tests.data_pipelines.curation.footage import film, pan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.CHROMIUM is None, reason="there is no Chromium"),
]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def data(tmp_path):
    path = film(tmp_path / "f.mkv", pan(1, 70))
    keyframe = f"keyframes/{'0' * 24}/0000_0.jpg"
    (tmp_path / keyframe).parent.mkdir(parents=True)
    (tmp_path / keyframe).write_bytes(b"\xff\xd8")
    chunks = [
        {"id": f"t.{i}", "start": 1 + 8 * i, "stop": 9 + 8 * i, "caption": f"A fox, {i}.", "keyframes": [keyframe]}
        for i in range(4)
    ]  # fmt: skip
    row = {"id": "t", "film": "<b>f", "path": str(path), "rate": 8, "first": 0, "chunks": chunks}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


class Server:
    """`python -m data_pipelines.review` as people start it."""

    def __init__(self, data, port=0):
        command = [
            sys.executable,
            "-m",
            "data_pipelines.review",
            f"--data={data}",
            f"--port={port}",
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
        said = self.process.stdout.readline()
        self.url = re.match(r"(http://\S+/) ", said)[1]

    @property
    def port(self):
        return int(self.url.rsplit(":", 1)[1].strip("/"))

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def begin(page, url, name="ann"):
    page.open(url)
    page.run("document.getElementById('name').focus()")
    page.type(name)
    page.press("Enter")
    page.until("!document.getElementById('desk').hidden")


def text(page, name):
    return page.run(f"document.getElementById({name!r}).textContent")


def said(page, words):
    page.until(f"document.getElementById('message').textContent === {words!r}")


def test_a_review_by_keys(data, tmp_path_factory):
    server = Server(data)
    try:
        with chromium.page(tmp_path_factory.mktemp("profile")) as page:
            begin(page, server.url)
            assert text(page, "place") == "1 of 4" and text(page, "title") == "<b>f, 0.12–1.12 s"
            # the clip plays: of eight frames at eight a second
            page.until("document.getElementById('clip').currentTime > 0.2")
            assert page.run("document.getElementById('clip').duration") == pytest.approx(1, abs=0.1)
            page.press(" ")
            page.until("document.getElementById('clip').paused")
            page.press("a")
            said(page, "Accepted.")
            assert Reviews(data).of("ann")["t.0"].verdict == "accept"  # on the disk
            page.press("2")
            said(page, "Rejected: wrong caption.")
            assert Reviews(data).of("ann")["t.1"].reason == "wrong caption"
            assert text(page, "place") == "3 of 4"
            # keys are letters while a caption is edited
            page.press("e")
            page.run("document.getElementById('caption').select()")
            page.type("a red fox 2")
            page.press("Escape")
            page.press("a")
            page.until("document.getElementById('place').textContent === '4 of 4'")
            assert Reviews(data).of("ann")["t.2"].caption == "a red fox 2"
            page.press("1")
            said(page, "All chunks have your decision.")
            page.press("u")
            said(page, "Taken back.")
            assert "t.3" not in Reviews(data).of("ann")
            assert page.run("document.getElementById('progress').value") == 3
            page.press("ArrowLeft")
            assert page.run("document.getElementById('caption').value") == "a red fox 2"
            assert (
                page.run("document.getElementById('accept').getAttribute('aria-pressed')") == "true"
            )
            page.press("n")
            assert text(page, "place") == "4 of 4"
            server.kill()
            page.press("a")
            page.until("document.getElementById('message').textContent.startsWith('Not saved')")
            assert "t.3" not in Reviews(data).of("ann")
            server = Server(data, server.port)  # the page goes on where it is
            page.press("a")
            said(page, "All chunks have your decision.")
            server.kill()
            server = Server(data, server.port)
            begin(page, server.url)
            assert page.run("document.getElementById('progress').value") == 4
            decisions = page.run(
                "fetch('/api/chunks?reviewer=ann').then(a => a.json()).then(c => c.chunks.map(x => x.decision.verdict))"
            )
            assert decisions == ["accept", "reject", "accept", "accept"]
            begin(page, server.url, "bob")  # who sees nothing of it
            assert page.run("document.getElementById('progress').value") == 0
            page.press("3")
            said(page, "Rejected: bad picture.")
            found = page.run("fetch('/api/agreement').then(a => a.json())")
            assert found["pairs"] == [{"reviewers": ["ann", "bob"], "chunks": 1, "cohen": 0.0}]
            assert page.exceptions == []
    finally:
        server.kill()
