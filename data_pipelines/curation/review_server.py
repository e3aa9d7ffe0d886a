"""A small server for people who review chunks: one page, the manifest as JSON, clips, and decisions.

It listens on this machine alone unless told otherwise, takes requests only under the names it listens as (a page of
another site cannot reach it by a name of its own), and decisions only as JSON, which such a page cannot send either.
"""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from bvjax.errors import UserError
from bvjax.files import parse_json, read_json_lines
from data_pipelines.curation.chunks import KEYFRAMES
from data_pipelines.curation.clips import chunk_clip
from data_pipelines.curation.reviews import REASONS, Reviews, agreement, check_reviewer, decision_of
from data_pipelines.curation.rows import Row

PAGE = Path(__file__).parent / "assets" / "review.html"
MOST_BODY = 64 << 10  # bytes of a request
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")
_KEYFRAME = re.compile(rf"{KEYFRAMES}/[0-9a-f]{{24}}/[0-9]+_[0-9]+\.jpg")


@dataclasses.dataclass
class Desk:
    """Chunks under review: those of a folder that `curate` made, and what was said of them."""

    root: Path

    def __post_init__(self):
        self.reviews, self._clips = Reviews(self.root), threading.Lock()

    @cached_property
    def chunks(self) -> dict[str, tuple[Row, Row]]:
        """{chunk: (take, chunk)} in the order of the manifest: those that have a caption and that no stage before the
        review dropped; raises `UserError` without any."""
        found: dict[str, tuple[Row, Row]] = {}
        for _, row in read_json_lines(self.root / "manifest.jsonl", "the manifest"):
            gone = row.get("dropped", {}).get("stage", "review") if isinstance(row, dict) else "?"
            if gone in ("review", "encode"):
                chunks = row.get("chunks", ())
                # Decisions are about the caption as it was written, not as the text encoder has room for.
                whole = [{**c, "caption": c.get("whole", c.get("caption"))} for c in chunks]
                found |= {c["id"]: (row, c) for c in whole if c["caption"]}
        if not found:
            raise UserError(
                f"{self.root} has no chunks with captions; run python -m data_pipelines.curate first"
            )
        return found

    def listing(self, reviewer: str) -> dict[str, Any]:
        """All chunks with this reviewer's decisions; others' are not shown, so that agreement means something."""
        mine = self.reviews.of(check_reviewer(reviewer))
        chunks = [
            {
                "id": name,
                "film": row["film"],
                "caption": chunk["caption"],
                "seconds": [
                    round(chunk["start"] / row["rate"], 2),
                    round(chunk["stop"] / row["rate"], 2),
                ],
                "keyframes": chunk["keyframes"],
                "decision": dataclasses.asdict(mine[name]) if name in mine else None,
            }
            for name, (row, chunk) in self.chunks.items()
        ]
        return {"chunks": chunks, "reasons": REASONS}

    def decide(self, content: Any) -> dict[str, Any]:
        """Writes a decision; raises `UserError`."""
        decision = decision_of(content)
        if decision.id not in self.chunks:
            raise UserError(f"there is no chunk {decision.id}")
        self.reviews.add(content.get("reviewer"), decision)
        return dataclasses.asdict(decision)

    def clip(self, name: str) -> Path:
        """The mp4 of a chunk; raises `UserError`."""
        if name not in self.chunks:
            raise UserError(f"there is no chunk {name}")
        with self._clips:
            return chunk_clip(*self.chunks[name], self.root)

    def keyframe(self, name: str) -> Path:
        """A keyframe's file; raises `UserError` for whatever else."""
        if not _KEYFRAME.fullmatch(name) or not (self.root / name).is_file():
            raise UserError("there is no such keyframe")
        return self.root / name


def make_server(root: Path, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """A server, ready for `serve_forever`; port 0 takes a free one. Raises `UserError`."""
    desk = Desk(root)
    desk.chunks  # noqa: B018 - what is wrong with the folder is told of now
    try:
        server = ThreadingHTTPServer((host, port), _Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host}:{port}: {error}") from None
    server.daemon_threads = True
    server.desk = desk  # type: ignore[attr-defined]
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "bvjax-review"

    def do_GET(self) -> None:  # noqa: N802 - the library's name
        self._answer(self._get)

    def do_POST(self) -> None:  # noqa: N802
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a line for each picture helps nobody."""

    @property
    def _desk(self) -> Desk:
        return self.server.desk  # type: ignore[attr-defined]

    def _answer(self, what) -> None:
        try:
            host = (self.headers.get("Host") or "").rsplit(":", 1)[0].strip("[]")
            listening = str(cast(ThreadingHTTPServer, self.server).socket.getsockname()[0])
            own = {"localhost", "127.0.0.1", "::1", listening}
            if host not in own and listening != "0.0.0.0":
                self._send(403, b"another host name", "text/plain")
                return
            what()
        except UserError as error:
            self._json({"error": str(error)}, 400)
        except OSError as error:
            if not isinstance(error, ConnectionError):
                self._json({"error": f"not written: {error.strerror or error}"}, 507)

    def _get(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        if url.path == "/":
            self._send(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif url.path == "/api/chunks":
            self._json(self._desk.listing(query.get("reviewer", "")))
        elif url.path == "/api/agreement":
            self._json(agreement(self._desk.reviews.all()))
        elif url.path == "/clip":
            self._file(self._desk.clip(query.get("id", "")), "video/mp4")
        elif url.path == "/keyframe":
            self._file(self._desk.keyframe(query.get("name", "")), "image/jpeg")
        else:
            self._json({"error": "there is no such page"}, 404)

    def _post(self) -> None:
        if self.headers.get_content_type() != "application/json":
            raise UserError("the request is not JSON")
        length = self.headers.get("Content-Length") or ""
        if not (length.isdecimal() and int(length) <= MOST_BODY):
            self.close_connection = True
            raise UserError("the request is too long")
        content = parse_json(self.rfile.read(int(length)), "the request")
        if not isinstance(content, dict):
            raise UserError("the request is not an object")
        path = urlsplit(self.path).path
        if path == "/api/decide":
            self._json(self._desk.decide(content))
        elif path == "/api/undo":
            self._json({"undone": self._desk.reviews.undo(check_reviewer(content.get("reviewer")))})
        else:
            self._json({"error": "there is no such page"}, 404)

    def _file(self, path: Path, kind: str) -> None:
        """A file, or the part of it that is asked for: browsers seek in videos that way."""
        content = path.read_bytes()
        match = _RANGE.fullmatch(self.headers.get("Range") or "")
        if not match or match[1] == match[2] == "":
            self._send(200, content, kind, {"Accept-Ranges": "bytes"})
            return
        first = int(match[1]) if match[1] else max(0, len(content) - int(match[2]))
        last = min(int(match[2]) if match[1] and match[2] else len(content) - 1, len(content) - 1)
        if first > last:
            self._send(416, b"", kind, {"Content-Range": f"bytes */{len(content)}"})
            return
        span = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "Accept-Ranges": "bytes"}
        self._send(206, content[first : last + 1], kind, span)

    def _json(self, content: Any, code: int = 200) -> None:
        self._send(code, json.dumps(content).encode(), "application/json")

    def _send(
        self, code: int, content: bytes, kind: str, more: dict[str, str] | None = None
    ) -> None:
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
            **(more or {}),
        }
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
