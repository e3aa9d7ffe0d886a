"""Requests and messages of clients, read as a stranger's: JSON objects with known fields of known kinds, and nothing else.

Messages to pages over the socket are JSON, or, with pictures, bytes: the length of the JSON as four bytes, the largest
first, the JSON, and the picture.  Their `type` is one of

  chunk    a piece of video: run, chunk, key, start and length in seconds, fps, facts, codec; the piece
  drift    what was measured of a chunk
  preview  the chunk at work: run, chunk, step, steps; a JPEG
  state    of a run in the queue: state, place, waiting, chunk, error
  note     a sentence about a run, for people
  changed  a run: its captions or chunks are others
  deleted  a run
  runs     the list of runs has changed
  error    a sentence
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from bvjax.errors import UserError
from bvjax.files import parse_json
from bvjax.plain_text import is_blank, whole_text
from bvjax.runs.requests import check_seed

MOST_CAPTIONS = 900  # an hour of chunks of four seconds
LONGEST_CAPTION = 2000  # characters
LONGEST_TITLE = 120
MOST_LORAS = 64
STRONGEST = 4  # strength of a LoRA
MOST_WATCHED = 4  # runs that a page follows at once


@dataclasses.dataclass(frozen=True)
class NewRun:
    """A run to be begun."""

    title: str
    captions: tuple[str, ...]
    seed: int
    settings: Mapping[str, Any]
    image: str | None  # of an upload
    video: str | None
    video_chunks: int | None
    loras: Mapping[str, float] = dataclasses.field(default_factory=dict)  # strengths


@dataclasses.dataclass(frozen=True)
class Change:
    """Other captions for all chunks of a run, or for those from `from_chunk` on.

    Without a seed, or strengths of a LoRA, those of the run stay.
    """

    captions: tuple[str, ...]
    from_chunk: int
    seed: int | None
    title: str | None
    loras: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Deletion:
    """A run to be deleted for good."""

    confirm: str  # its name
    keep_branches: bool  # that others branch from it is known: they stay


@dataclasses.dataclass(frozen=True)
class Watch:
    """Runs that a page follows, with the keys of the pieces that it has already."""

    runs: tuple[str, ...]
    have: frozenset[str]
    pictures: bool  # JPEG instead of mp4


def read(content: bytes | str) -> dict[str, Any]:
    """The object in a request; raises `UserError`."""
    value = parse_json(content, "the request")
    if not isinstance(value, dict):
        raise UserError("the request is not a JSON object")
    return value


def new_run(content: dict[str, Any]) -> NewRun:
    """Raises `UserError`."""
    _only(
        content,
        {"title", "captions", "seed", "settings", "image", "video", "video_chunks", "loras"},
    )
    settings = content.get("settings", {})
    if not isinstance(settings, dict):
        raise UserError("the settings are not a JSON object")
    chunks = content.get("video_chunks")
    return NewRun(
        title(content.get("title", "")),
        captions(content.get("captions")),
        seed(content.get("seed", 0)),
        settings,
        _name(content, "image"),
        _name(content, "video"),
        None if chunks is None else whole(chunks, "video_chunks", 1, MOST_CAPTIONS),
        loras(content.get("loras", {})),
    )


def change(content: dict[str, Any]) -> Change:
    """Raises `UserError`."""
    _only(content, {"captions", "from_chunk", "seed", "title", "loras"})
    name = content.get("title")
    number = content.get("seed")
    return Change(
        captions(content.get("captions", [])) if content.get("captions") else (),
        whole(content.get("from_chunk", 1), "from_chunk", 1, MOST_CAPTIONS + 1),
        None if number is None else seed(number),
        None if name is None else title(name),
        loras(content.get("loras", {})),
    )


def deletion(content: dict[str, Any]) -> Deletion:
    """Raises `UserError`."""
    _only(content, {"confirm", "keep_branches"})
    confirm = content.get("confirm")
    if not isinstance(confirm, str):
        raise UserError("confirm must be the name of the run: it is deleted for good")
    return Deletion(confirm, content.get("keep_branches") is True)


def watch(content: dict[str, Any]) -> Watch:
    """Raises `UserError`."""
    _only(content, {"type", "runs", "have", "pictures"})
    runs, have = content.get("runs", []), content.get("have", [])
    for name, value, most in (("runs", runs, MOST_WATCHED), ("have", have, 4 * MOST_CAPTIONS)):
        texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not texts or len(value) > most:
            raise UserError(f"{name} must be a list of at most {most} texts")
    return Watch(tuple(runs), frozenset(have), content.get("pictures") is True)


def captions(value: Any, unfinished: bool = False) -> tuple[str, ...]:
    """Captions of chunks; raises `UserError`.  Only those of a story that is `unfinished` may be empty."""
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_CAPTIONS:
        raise UserError(f"captions must be a list of 1 to {MOST_CAPTIONS} sentences")
    for number, caption in enumerate(value, start=1):
        if not isinstance(caption, str):
            raise UserError(f"caption {number} is not text")
        if len(caption) > LONGEST_CAPTION:
            raise UserError(f"caption {number} is longer than {LONGEST_CAPTION} characters")
        if is_blank(whole_text(caption, f"caption {number}")) and not unfinished:
            raise UserError(f"caption {number} is empty")
    return tuple(value)


def loras(value: Any) -> dict[str, float]:
    """Strengths of LoRAs by name; raises `UserError`."""
    if not isinstance(value, dict) or len(value) > MOST_LORAS:
        raise UserError(f"loras must be an object of at most {MOST_LORAS} names with strengths")
    for name, strength in value.items():
        number = isinstance(strength, int | float) and not isinstance(strength, bool)
        if not number or not abs(strength) <= STRONGEST:
            raise UserError(
                f"the strength of {name[:40]!r} must be a number from {-STRONGEST} to {STRONGEST}"
            )
    return {name: float(strength) for name, strength in value.items()}


def title(value: Any) -> str:
    """A title; raises `UserError`."""
    if not isinstance(value, str) or len(value) > LONGEST_TITLE:
        raise UserError(f"the title must be text of at most {LONGEST_TITLE} characters")
    return whole_text(value, "the title").strip()


def seed(value: Any) -> int:
    """A seed; raises `UserError`."""
    number = whole(value, "the seed", 0, 2**32 - 1)
    check_seed(number)
    return number


def whole(value: Any, name: str, low: int, high: int) -> int:
    """A whole number in a range; raises `UserError`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{name} must be a whole number from {low} to {high}")
    return value


def framed(message: Mapping[str, Any], payload: bytes) -> bytes:
    """A message with a picture, as one message of bytes."""
    head = json.dumps(message, ensure_ascii=False).encode()
    return len(head).to_bytes(4, "big") + head + payload


def _name(content: dict[str, Any], key: str) -> str | None:
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{key} must be the name of an upload")
    return value


def _only(content: dict[str, Any], known: set[str]) -> None:
    if strange := sorted(set(content) - known):
        raise UserError(f"the request has a field {strange[0][:40]!r}; it can have {sorted(known)}")
