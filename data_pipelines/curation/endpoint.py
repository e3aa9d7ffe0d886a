"""A server that speaks the chat protocol of OpenAI, with pictures: asked politely, and its answers kept.

The key comes from an environment variable, goes into one header and nowhere else: not into messages, files or the
cache, and not to another server (redirections are refused).
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bvjax.errors import UserError, WorkError
from bvjax.files import parse_json, read_json_object, write_json
from data_pipelines.curation.rows import digest
from data_pipelines.curation.settings import Captions

CACHE = Path("captions") / "cache"
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 529)
LONGEST_WAIT = 60.0  # seconds between two tries
MOST_BYTES = 16 << 20  # of an answer

Part = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A server's text, its counts of tokens, and whether it was in the cache."""

    text: str
    input_tokens: int
    output_tokens: int
    cached: bool


def text_part(text: str) -> Part:
    return {"type": "text", "text": text}


def picture_part(content: bytes) -> Part:
    """A JPEG as a data URI."""
    return {"type": "image_url", "image_url": {"url": _uri("image/jpeg", content)}}


def video_part(content: bytes) -> Part:
    """An mp4 as a data URI, as vLLM and cosmos-curate have it; not part of OpenAI's own protocol."""
    return {"type": "video_url", "video_url": {"url": _uri("video/mp4", content)}}


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A server. `sleep` waits between tries; tests replace it."""

    settings: Captions
    root: Path
    sleep: Callable[[float], None] = time.sleep

    def request(self, parts: Sequence[Part], model: str) -> dict[str, Any]:
        """The body of a request."""
        return {
            "model": model,
            "max_tokens": self.settings.most_tokens,
            "temperature": 0,
            "messages": [{"role": "user", "content": list(parts)}],
        }

    def ask(self, parts: Sequence[Part], accept: Callable[[str], str], attempt: int = 0) -> Answer:
        """The answer to a request, from the cache or the server.

        Args:
            parts: of the message.
            accept: gives an answer's text as it is used; raises `UserError` for nonsense, which is asked for again.
            attempt: an answer of another attempt is another answer.

        Raises:
            WorkError: the server cannot be reached, refuses, or answers nonsense, again and again.
        """
        # Not the model's name "auto": what a server lists changes.
        key = digest(
            [
                self.settings.endpoint,
                self.settings.model,
                self.settings.most_tokens,
                attempt,
                list(parts),
            ]
        )
        path = self.root / CACHE / key[:2] / f"{key}.json"
        found = _cached(path)
        if found is not None:
            return found
        body = self.request(parts, self.model_name)
        nonsense = ""
        for number in range(self.settings.retries + 1):
            content = self._send("chat/completions", body)
            try:
                text, tokens = _read(content)
                answer = Answer(accept(text), *tokens, cached=False)
            except UserError as error:
                nonsense = str(error)
                self._wait(number, None)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {k: v for k, v in dataclasses.asdict(answer).items() if k != "cached"})
            return answer
        raise WorkError(f"the server at {self.address} answers nonsense: {nonsense}")

    @functools.cached_property
    def model_name(self) -> str:
        """The name of the model, the first that the server lists where the settings say "auto"."""
        if self.settings.model != "auto":
            return self.settings.model
        content = self._send("models", None)
        try:
            return str(content["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise WorkError(
                f"the server at {self.address} lists no model; set captions.model"
            ) from None

    @property
    def address(self) -> str:
        """Its address for messages, without a user's name or password that may be in it."""
        parts = urlsplit(self.settings.endpoint)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def _send(self, name: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """The JSON object that the server answers; raises `WorkError`."""
        why = ""
        for number in range(self.settings.retries + 1):
            after = None
            try:
                request, opener = self._http(name, body), _opener()
                with opener.open(request, timeout=self.settings.timeout) as answer:
                    content = answer.read(MOST_BYTES + 1)
                if len(content) > MOST_BYTES:
                    raise UserError("the answer is too long")
                value = parse_json(content, "the answer")
                if not isinstance(value, dict):
                    raise UserError("the answer is not an object")
                return value
            except urllib.error.HTTPError as error:
                why = self._clean(
                    f"{error.code} {error.reason}: {error.read(2000).decode(errors='replace')}"
                )
                if error.code not in RETRIED:
                    raise WorkError(f"the server at {self.address} refuses: {why}") from None
                after = error.headers.get("Retry-After")
            except UserError as error:
                why = self._clean(str(error))
            except (OSError, http.client.HTTPException) as error:
                why = self._clean(str(getattr(error, "reason", error)) or type(error).__name__)
            if number < self.settings.retries:
                self._wait(number, after)
        raise WorkError(f"the server at {self.address} cannot be asked: {why}")

    def _http(self, name: str, body: dict[str, Any] | None) -> urllib.request.Request:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        key = self._key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.Request(f"{self.settings.endpoint.rstrip('/')}/{name}", data, headers)

    def _key(self) -> str:
        return os.environ.get(self.settings.key_variable, "").strip()

    def _clean(self, text: str) -> str:
        """A server's words in one line, without the key, should it repeat it."""
        text = " ".join(text.split())[:300]
        return text.replace(self._key(), "***") if self._key() else text

    def _wait(self, number: int, after: str | None) -> None:
        """Waits before another try: as long as the server asks, or longer each time, never quite as long."""
        try:
            seconds = float(after or "")
        except ValueError:
            seconds = 2.0**number * random.uniform(0.5, 1.0)
        self.sleep(min(max(seconds, 0.0), LONGEST_WAIT))


def check_endpoint(settings: Captions) -> None:
    """Raises `UserError` for an address that is none."""
    parts = urlsplit(settings.endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"captions.endpoint is {settings.endpoint!r}; it must be an address such as http://localhost:8000/v1"
        )


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect())


def _read(content: dict[str, Any]) -> tuple[str, tuple[int, int]]:
    """An answer's text and tokens; raises `UserError`."""
    try:
        text = content["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise UserError("it has no choices[0].message.content") from None
    if not isinstance(text, str):
        raise UserError("its content is not text")
    usage = content.get("usage")
    counts = [
        usage.get(k) if isinstance(usage, dict) else 0
        for k in ("prompt_tokens", "completion_tokens")
    ]
    first, second = (c if isinstance(c, int) and 0 <= c < 1 << 40 else 0 for c in counts)
    return text, (first, second)


def _cached(path: Path) -> Answer | None:
    if not path.exists():
        return None
    try:
        content = read_json_object(path)
        return Answer(
            str(content["text"]), int(content["input_tokens"]), int(content["output_tokens"]), True
        )
    except (UserError, KeyError, TypeError, ValueError):  # damaged: asked again
        return None
