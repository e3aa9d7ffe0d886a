"""Which files of a folder are videos, and which files say what they show."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bvjax.errors import UserError
from bvjax.files import read_json, read_json_lines
from bvjax.lvbench.video import bare, find_videos, name_of
from bvjax.plain_text import same_name, shown

TABLES = ("captions.json", "captions.jsonl")  # captions of many videos, at the folder's top
# Not captions of a video of that name: the split, and the story in a folder that `generate` made.
OTHERS = ("split.json", "story.json")


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is wrong: in which file, or entry of a file, and what."""

    where: str
    what: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is said of one video: {"captions": [...], "class": ...} or whatever stands there."""

    name: str
    where: str
    content: Any


@dataclasses.dataclass(frozen=True)
class Found:
    """Videos and entries by name, sorted, and what is wrong with the files themselves."""

    videos: Mapping[str, pathlib.Path]
    entries: Mapping[str, Entry]
    problems: tuple[Problem, ...]


def gather(folder: pathlib.Path) -> Found:
    """All videos below a folder and what its files say of them; raises `UserError` without any."""
    videos: dict[str, pathlib.Path] = {}
    problems: list[Problem] = []
    for path in find_videos(folder):
        where = name_of(path, folder)
        name = name_key(where)
        if name in videos:
            other = name_of(videos[name], folder)
            problems.append(Problem(where, f"has the name of {other}, but for the suffix"))
        videos.setdefault(name, path)
    entries: dict[str, Entry] = {}
    for entry in _entries(folder, videos):
        if isinstance(entry, Problem):
            problems.append(entry)
        elif entry.name in entries:
            there = entries[entry.name].where
            problems.append(Problem(entry.where, f"{entry.name} has captions in {there} too"))
        else:
            entries[entry.name] = entry
    return Found(dict(sorted(videos.items())), dict(sorted(entries.items())), tuple(problems))


def load(path: pathlib.Path) -> Any:
    """JSON, or a list of the lines of a JSONL file; raises `UserError`."""
    if path.suffix == ".jsonl":
        return [content for _, content in read_json_lines(path, "the file")]
    return read_json(path, "the file")


def name_key(name: str) -> str:
    """A video's name as names are compared here: without its suffix, in Unicode's form NFC."""
    return bare(same_name(name))


def _entries(folder: pathlib.Path, videos: Mapping[str, pathlib.Path]) -> Iterator[Entry | Problem]:
    if not folder.is_dir():  # one video alone
        return
    for path in sorted(p for p in folder.rglob("*.json*") if not p.name.startswith(".")):
        where = name_of(path, folder)
        beside, table = same_name(where).removesuffix(".json"), where in TABLES
        if path.name in OTHERS or (path.suffix != ".json" and not table):
            continue
        try:
            content = load(path)
        except UserError as error:
            if table or beside in videos:
                yield Problem(where, f"cannot be read: {error}")
            continue
        if not table:
            content = _unwrapped(content)
            has_captions = isinstance(content, Mapping) and "captions" in content
            if beside in videos or has_captions:  # else it is somebody else's file
                yield Entry(beside, where, content)
        elif isinstance(content, list):
            yield from _of_lines(content, where)
        elif isinstance(content, Mapping) and "captions" not in content:
            for name, value in content.items():
                yield Entry(name_key(name), f"{where}: {shown(name)}", value)
        else:
            yield Problem(where, 'must be {"NAME": {"captions": [...]}, ...}')


def _of_lines(content: Sequence[Any], where: str) -> Iterator[Entry | Problem]:
    for number, value in enumerate(content, start=1):
        if isinstance(value, Mapping) and isinstance(value.get("id"), str):
            yield Entry(name_key(value["id"]), f"{where}: {shown(value['id'])}", value)
        else:
            yield Problem(where, f'item {number} has no "id"')


def _unwrapped(content: Any) -> Any:
    """{"captions": ...} out of {"NAME": {"captions": ...}}; anything else as it is."""
    if isinstance(content, Mapping) and "captions" not in content and len(content) == 1:
        (inner,) = content.values()
        if isinstance(inner, Mapping) and "captions" in inner:
            return inner
    return content
