"""The videos of a folder and the files with their captions."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bvjax.errors import UserError
from bvjax.files import read_json, read_json_lines
from bvjax.lvbench.video import find_videos, name_of, without_suffix
from bvjax.plain_text import same_name, shown

TABLES = ("captions.json", "captions.jsonl")  # captions of many videos, at the folder's top
# Not captions of a video of that name: the split, and the story in a folder that `generate` made.
IGNORED_FILES = ("split.json", "story.json")


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is wrong: in which file, or entry of a file, and what."""

    location: str
    message: str


@dataclasses.dataclass(frozen=True)
class DatasetEntry:
    """The metadata of one video: {"captions": [...], "class": ...}, or any other JSON, unchecked."""

    name: str
    location: str
    content: Any


@dataclasses.dataclass(frozen=True)
class FolderContents:
    """Videos and entries by name, sorted, and what is wrong with the files themselves."""

    videos: Mapping[str, pathlib.Path]
    entries: Mapping[str, DatasetEntry]
    problems: tuple[Problem, ...]


def gather(folder: pathlib.Path) -> FolderContents:
    """All videos below a folder and what its files say of them; raises `UserError` without any."""
    videos: dict[str, pathlib.Path] = {}
    problems: list[Problem] = []
    for path in find_videos(folder):
        location = name_of(path, folder)
        name = name_key(location)
        if name in videos:
            first_name = name_of(videos[name], folder)
            problems.append(Problem(location, f"has the name of {first_name}, but for the suffix"))
        videos.setdefault(name, path)
    entries: dict[str, DatasetEntry] = {}
    for entry in _entries(folder, videos):
        if isinstance(entry, Problem):
            problems.append(entry)
        elif entry.name in entries:
            first_location = entries[entry.name].location
            problems.append(
                Problem(entry.location, f"{entry.name} has captions in {first_location} too")
            )
        else:
            entries[entry.name] = entry
    return FolderContents(
        dict(sorted(videos.items())), dict(sorted(entries.items())), tuple(problems)
    )


def load(path: pathlib.Path) -> Any:
    """JSON, or a list of the lines of a JSONL file; raises `UserError`."""
    if path.suffix == ".jsonl":
        return [content for _, content in read_json_lines(path, "the file")]
    return read_json(path, "the file")


def name_key(name: str) -> str:
    """A video's name as names are compared here: without its suffix, in Unicode's form NFC."""
    return without_suffix(same_name(name))


def _entries(
    folder: pathlib.Path, videos: Mapping[str, pathlib.Path]
) -> Iterator[DatasetEntry | Problem]:
    if not folder.is_dir():  # one video alone
        return
    for path in sorted(p for p in folder.rglob("*.json*") if not p.name.startswith(".")):
        location = name_of(path, folder)
        name, is_table = same_name(location).removesuffix(".json"), location in TABLES
        if path.name in IGNORED_FILES or (path.suffix != ".json" and not is_table):
            continue
        try:
            content = load(path)
        except UserError as error:
            if is_table or name in videos:
                yield Problem(location, f"cannot be read: {error}")
            continue
        if not is_table:
            content = _unwrapped(content)
            has_captions = isinstance(content, Mapping) and "captions" in content
            if name in videos or has_captions:  # else it is somebody else's file
                yield DatasetEntry(name, location, content)
        elif isinstance(content, list):
            yield from _entries_of_lines(content, location)
        elif isinstance(content, Mapping) and "captions" not in content:
            for key, value in content.items():
                yield DatasetEntry(name_key(key), f"{location}: {shown(key)}", value)
        else:
            yield Problem(location, 'must be {"NAME": {"captions": [...]}, ...}')


def _entries_of_lines(content: Sequence[Any], location: str) -> Iterator[DatasetEntry | Problem]:
    for number, value in enumerate(content, start=1):
        if isinstance(value, Mapping) and isinstance(value.get("id"), str):
            yield DatasetEntry(name_key(value["id"]), f"{location}: {shown(value['id'])}", value)
        else:
            yield Problem(location, f'item {number} has no "id"')


def _unwrapped(content: Any) -> Any:
    """{"captions": ...} out of {"NAME": {"captions": ...}}; anything else as it is."""
    if isinstance(content, Mapping) and "captions" not in content and len(content) == 1:
        (inner,) = content.values()
        if isinstance(inner, Mapping) and "captions" in inner:
            return inner
    return content
