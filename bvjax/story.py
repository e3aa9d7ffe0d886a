"""Stories: a JSON file of captions, with or without times, turned into one caption per chunk.

Three forms are read:

  ["A fox ...", "It ..."]                        a plain list
  {"title": "Fox", "captions": ["A fox ..."]}    with an optional title
  {"fox": {"captions": ["A fox ..."]}}           named, as LV-Bench stores one video

A caption may end with the inclusive seconds it covers, "(00s - 03s)." (hyphen or dash, spaces or
none, with or without the full stop): seconds 0, 1, 2 and 3, that is the four seconds up to 4.0.
Either all captions have times or none has.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bvjax.errors import UserError
from bvjax.files import parse_json

_TIMES = re.compile(r"\s*\(\s*(\d+)\s*s?\s*[-\u2010-\u2015\u2212]\s*(\d+)\s*s\s*\)\s*(\.?)\s*$")
_SENTENCE_END = (".", "!", "?", "\u2026", '"', "\u201d")


@dataclasses.dataclass(frozen=True)
class Story:
    """Captions without their times, and the times if there were any: [start, stop) seconds."""

    captions: tuple[str, ...]
    spans: tuple[tuple[int, int], ...] | None = None
    title: str = ""

    @property
    def seconds(self) -> int | None:
        """Length in seconds; None when the captions have no times."""
        return self.spans[-1][1] if self.spans else None

    def num_chunks(self, seconds_per_chunk: float) -> int:
        """Chunks this story needs: one per caption, or its seconds rounded up to whole chunks."""
        if self.spans is None:
            return len(self.captions)
        return max(1, -int(-(self.seconds - 1e-6) // seconds_per_chunk))

    def chunk_captions(self, seconds_per_chunk: float) -> tuple[str, ...]:
        """One caption per chunk: the one that covers its middle; past the end the last one."""
        if self.spans is None:
            return self.captions
        middles = [(i + 0.5) * seconds_per_chunk for i in range(self.num_chunks(seconds_per_chunk))]
        stops = [stop for _, stop in self.spans]
        last = len(stops) - 1
        return tuple(
            self.captions[min(last, sum(stop <= middle for stop in stops))] for middle in middles
        )


def load_story(path: str | pathlib.Path) -> Story:
    """Read a story file; raises `UserError` with one sentence for whatever is wrong with it."""
    path = pathlib.Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the story {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"the story {path} is not UTF-8 text") from None
    return parse_story(parse_json(text, f"the story {path}"), str(path))


def parse_story(content: Any, where: str = "the story") -> Story:
    """The `Story` in decoded JSON; raises `UserError` that starts with `where`."""
    title, captions = _find_captions(content, where)
    if not isinstance(captions, list):
        raise UserError(f"{where}: captions must be a list of sentences, not {_kind(captions)}")
    if not captions:
        raise UserError(f"{where} has no captions; it needs at least one")
    for number, caption in enumerate(captions, start=1):
        if not isinstance(caption, str):
            raise UserError(f"{where}: caption {number} must be text, not {_kind(caption)}")
    texts, times = zip(*(split_times(caption) for caption in captions), strict=True)
    for number, text in enumerate(texts, start=1):
        if not text.strip(" .\t\r\n"):
            raise UserError(f"{where}: caption {number} is empty")
    return Story(texts, _spans(times, where), title)


def split_times(caption: str) -> tuple[str, tuple[int, int] | None]:
    """A caption without its time stamp, and the inclusive (first, last) second or None.

    The full stop that follows the stamp goes back to the end of the sentence:
    "A fox sits (00s - 03s)." gives "A fox sits." and (0, 3).
    """
    found = _TIMES.search(caption)
    if found is None:
        return caption.strip(), None
    text = caption[: found.start()].strip()
    if found[3] and not text.endswith(_SENTENCE_END):
        text += "."
    return text, (int(found[1]), int(found[2]))


def _find_captions(content: Any, where: str) -> tuple[str, Any]:
    if isinstance(content, list):
        return "", content
    if not isinstance(content, Mapping):
        raise UserError(f"{where} must hold a list of captions, not {_kind(content)}")
    if "captions" in content:
        title = content.get("title", "")
        if not isinstance(title, str):
            raise UserError(f"{where}: the title must be text, not {_kind(title)}")
        return title, content["captions"]
    named = [k for k, v in content.items() if isinstance(v, Mapping) and "captions" in v]
    if len(named) == 1:
        return str(content[named[0]].get("title", named[0])), content[named[0]]["captions"]
    if named:
        raise UserError(f"{where} holds {len(named)} stories; a file must hold one")
    raise UserError(f'{where} has no "captions"')


def _spans(
    times: Sequence[tuple[int, int] | None], where: str
) -> tuple[tuple[int, int], ...] | None:
    """Checked [start, stop) spans of inclusive times; None if no caption has one."""
    without = [number for number, time in enumerate(times, start=1) if time is None]
    if len(without) == len(times):
        return None
    if without:
        raise UserError(
            f"{where}: caption {without[0]} has no times but others have; give them to all or none"
        )
    expected = 0
    for number, (first, last) in enumerate(times, start=1):
        if last < first:
            raise UserError(
                f"{where}: caption {number} ends at {last}s, before it starts at {first}s"
            )
        if first < expected:
            raise UserError(
                f"{where}: the times of captions {number - 1} and {number} overlap: "
                f"caption {number} starts at {first}s and must start at {expected}s"
            )
        if first > expected:
            before = f"caption {number - 1}" if number > 1 else "0s"
            raise UserError(
                f"{where}: there is a gap between {before} and caption {number}: "
                f"caption {number} starts at {first}s and must start at {expected}s"
            )
        expected = last + 1
    return tuple((first, last + 1) for first, last in times)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "nothing" if value is None else names.get(type(value), "a number")
