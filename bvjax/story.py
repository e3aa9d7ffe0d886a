"""Stories: a JSON file of captions, with or without times, turned into one caption per chunk.

Three forms are read:

  ["A fox ...", "It ..."]                        a plain list
  {"title": "Fox", "captions": ["A fox ..."]}    with an optional title
  {"fox": {"captions": ["A fox ..."]}}           named, as LV-Bench stores one video

A caption that begins a new shot is {"shot": "cut", "caption": "Ada ..."} in place of its text.

A caption may have the seconds it covers, "(00s - 03s)." at its end or another of the forms of
`bvjax.caption_times`.  Either all captions have times or none has.
"""

from __future__ import annotations

import bisect
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bvjax.caption_times import LONGEST, SENTENCE_END, Stamp, inclusive, split_times
from bvjax.errors import UserError
from bvjax.files import read_json
from bvjax.plain_text import is_blank, whole_text

__all__ = ["Story", "as_story", "load_story", "parse_story", "split_times"]


@dataclasses.dataclass(frozen=True)
class Story:
    """Captions without their times, and the times if there were any: [start, stop) seconds."""

    captions: tuple[str, ...]
    spans: tuple[tuple[float, float], ...] | None = None
    title: str = ""
    cuts: tuple[int, ...] = ()  # indices of captions that begin a shot, ascending, none of them 0

    @property
    def seconds(self) -> float | None:
        """Length in seconds; None when the captions have no times."""
        return self.spans[-1][1] if self.spans else None

    def num_chunks(self, seconds_per_chunk: float) -> int:
        """Chunks this story needs: one per caption, or its seconds rounded up to whole chunks."""
        if self.spans is None:
            return len(self.captions)
        return max(1, -int(-(self.spans[-1][1] - 1e-6) // seconds_per_chunk))

    def chunk_captions(self, seconds_per_chunk: float) -> tuple[str, ...]:
        """One caption per chunk: that of `chunk_parts`, several joined by spaces."""
        return tuple(
            _joined([self.captions[i] for i in part])
            for part in self.chunk_parts(seconds_per_chunk)
        )

    def chunk_parts(self, seconds_per_chunk: float) -> tuple[tuple[int, ...], ...]:
        """Indices of the captions that describe each chunk, in order.

        A chunk has the caption that covers its middle (past the end the last one), and those that
        cover the middle of no chunk at all, being finer than one, where their own middle lies.
        """
        if self.spans is None:
            return tuple((i,) for i in range(len(self.captions)))
        count, last = self.num_chunks(seconds_per_chunk), len(self.captions) - 1
        stops = [stop for _, stop in self.spans]
        middles = [(i + 0.5) * seconds_per_chunk for i in range(count)]
        parts = [{min(last, bisect.bisect_right(stops, middle))} for middle in middles]
        for index in set(range(last + 1)).difference(*parts):
            middle = sum(self.spans[index]) / 2
            parts[min(int(middle // seconds_per_chunk), count - 1)].add(index)
        return tuple(tuple(sorted(part)) for part in parts)

    def chunk_cuts(self, seconds_per_chunk: float) -> tuple[int, ...]:
        """Indices of the chunks that begin a shot: the first ones that have a caption which does."""
        seen: set[int] = set()
        chunks = []
        for chunk, part in enumerate(self.chunk_parts(seconds_per_chunk)):
            if chunk and not seen.issuperset(set(part).intersection(self.cuts)):
                chunks.append(chunk)
            seen.update(part)
        return tuple(chunks)

    def merged(self, seconds_per_chunk: float) -> str:
        """A sentence about the captions that are finer than a chunk; "" where none is."""
        parts = self.chunk_parts(seconds_per_chunk)
        phrases = [
            f"chunk {chunk} has captions {', '.join(str(i + 1) for i in part[:-1])} and {part[-1] + 1}"
            for chunk, part in enumerate(parts, start=1)
            if len(part) > 1
        ]
        if not phrases:
            return ""
        more = f"; so do {len(phrases) - 3} more" if len(phrases) > 3 else ""
        return (
            f"captions finer than a chunk of {seconds_per_chunk:g} s are merged: "
            f"{'; '.join(phrases[:3])}{more}"
        )


def load_story(path: str | pathlib.Path) -> Story:
    """Read a story file; raises `UserError` with one sentence for whatever is wrong with it."""
    return parse_story(read_json(path, "the story"), str(path))


def as_story(story: Story | str | os.PathLike | Mapping | Sequence, chunks: int | None) -> Story:
    """A story in any of its forms: a file (a path, or text that ends in ".json"), its content (a list
    of captions, a mapping), or a prompt, which is the caption of `chunks` chunks, by default of one.

    Raises `UserError`.
    """
    if isinstance(story, Story):
        return story
    if isinstance(story, os.PathLike) or (isinstance(story, str) and story.endswith(".json")):
        return load_story(pathlib.Path(story))
    if isinstance(story, str):
        return repeated(story, 1 if chunks is None else chunks)
    return parse_story(list(story) if isinstance(story, tuple) else story)


def repeated(prompt: str, chunks: int) -> Story:
    """The story of one caption for all its chunks; raises `UserError`."""
    if not 1 <= chunks <= LONGEST:
        raise UserError(f"`chunks` is {chunks}; it can be 1 to {LONGEST}")
    caption, stamp = read_caption(prompt, "the prompt")
    if stamp is not None:
        raise UserError("the prompt has times; captions with times need a `story`")
    return Story((caption,) * chunks)


def parse_story(content: Any, where: str = "the story") -> Story:
    """The `Story` in decoded JSON; raises `UserError` that starts with `where`."""
    title, captions = _find_captions(content, where)
    if not isinstance(captions, list):
        raise UserError(f"{where}: captions must be a list of sentences, not {_kind(captions)}")
    if not captions:
        raise UserError(f"{where} has no captions; it needs at least one")
    texts = [
        _without_shot(caption, f"{where}: caption {n}") for n, caption in enumerate(captions, 1)
    ]
    cuts = tuple(index for index, (_, cut) in enumerate(texts) if cut)
    if cuts[:1] == (0,):
        raise UserError(f"{where}: caption 1 begins the video; it cannot be a cut")
    read = [read_caption(text, f"{where}: caption {n}") for n, (text, _) in enumerate(texts, 1)]
    return Story(
        tuple(text for text, _ in read),
        _spans([stamp for _, stamp in read], where),
        whole_text(title, f"{where}: the title"),
        cuts,
    )


def _without_shot(caption: Any, where: str) -> tuple[Any, bool]:
    """A caption's text, and whether it begins a shot; raises `UserError` that starts with `where`."""
    if not isinstance(caption, Mapping):
        return caption, False
    if set(caption) != {"shot", "caption"} or caption["shot"] != "cut":
        raise UserError(
            f'{where} is an object; one that begins a shot is written {{"shot": "cut", "caption": "..."}}'
        )
    return caption["caption"], True


def read_caption(caption: Any, where: str) -> tuple[str, Stamp | None]:
    """A caption without its times, and its times; raises `UserError` that starts with `where`."""
    if not isinstance(caption, str):
        raise UserError(f"{where} must be text, not {_kind(caption)}")
    text, stamp = split_times(whole_text(caption, where), where)
    if is_blank(text):
        raise UserError(f"{where} is empty")
    return text, stamp


def _joined(captions: Sequence[str]) -> str:
    """Captions one after the other, each but the last a sentence."""
    ended = [c if c.endswith(SENTENCE_END) else f"{c}." for c in captions[:-1]]
    return " ".join([*ended, captions[-1]])


def _find_captions(content: Any, where: str) -> tuple[str, Any]:
    if isinstance(content, list):
        return "", content
    if not isinstance(content, Mapping):
        raise UserError(f"{where} must hold a list of captions, not {_kind(content)}")
    named = [k for k, v in content.items() if isinstance(v, Mapping) and "captions" in v]
    if "captions" in content:
        story, title = content, content.get("title", "")
    elif len(named) == 1:
        story = content[named[0]]
        title = story.get("title", named[0])
    elif named:
        raise UserError(f"{where} holds {len(named)} stories; a file must hold one")
    else:
        raise UserError(f'{where} has no "captions"')
    if not isinstance(title, str):
        raise UserError(f"{where}: the title must be text, not {_kind(title)}")
    return title, story["captions"]


def _spans(stamps: Sequence[Stamp | None], where: str) -> tuple[tuple[float, float], ...] | None:
    """Checked [start, stop) spans of captions' times; None if no caption has one."""
    timed = [stamp for stamp in stamps if stamp is not None]
    if not timed:
        return None
    without = [number for number, stamp in enumerate(stamps, start=1) if stamp is None]
    if without:
        raise UserError(
            f"{where}: caption {without[0]} has no times but others have; give them to all or none"
        )
    past = int(inclusive(timed))
    expected: float = 0
    for number, (first, last, _) in enumerate(timed, start=1):
        if last + past <= first:
            raise UserError(
                f"{where}: caption {number} ends at {last:g}s, before it starts at {first:g}s"
            )
        if first < expected:
            raise UserError(
                f"{where}: the times of captions {number - 1} and {number} overlap: "
                f"caption {number} starts at {first:g}s and must start at {expected:g}s"
            )
        if first > expected:
            before = f"caption {number - 1}" if number > 1 else "0s"
            raise UserError(
                f"{where}: there is a gap between {before} and caption {number}: "
                f"caption {number} starts at {first:g}s and must start at {expected:g}s"
            )
        expected = last + past
    return tuple((first, last + past) for first, last, _ in timed)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "nothing" if value is None else names.get(type(value), "a number")
