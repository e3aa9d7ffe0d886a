"""The prompts of videos: a file of prompts, matched to videos by name.

Four forms are read:

  {"clips/fox.mp4": "A fox ...", ...}              VBench's prompt file
  {"fox": {"captions": ["A fox ...", ...]}, ...}   LV-Bench's, as `bvjax.story` reads one of them
  {"captions": ["A fox ...", ...]}                 one story, for the video named like the file
  {"id": "fox", "prompt": "A fox ..."}             one a line (.jsonl); "captions" may be there instead
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from bvjax.errors import UserError
from bvjax.files import read_json, read_json_lines, sha256_of
from bvjax.lvbench.video import without_suffix
from bvjax.plain_text import is_blank, same_name, whole_text
from bvjax.story import parse_story

FORMS = (
    'a prompt file is {"video.mp4": "prompt"}, {"video": {"captions": [...]}}, or lines of '
    '{"id": "video", "prompt": "..."}'
)


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts by the names they were given under, and the SHA-256 of the file.

    Captions of one video are concatenated with spaces, without their times.
    """

    texts: Mapping[str, str]
    sha256: str

    @functools.cached_property
    def _by_stem(self) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
        keys_by_stem: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
        for key in self.texts:
            name_parts = _name_parts(key)
            keys_by_stem.setdefault(name_parts[0], []).append((key, name_parts))
        return keys_by_stem

    def key(self, name: str) -> str | None:
        """Returns the name under which a video's prompt is stored; None if there is none or several fit.

                Names match when their last parts do, with or without a suffix of videos; of several, those
                count that match in the most folders above, and where two are left, none does.

                Args:
        name: of the video, relative to the evaluated folder.
        """
        video_parts = _name_parts(name)
        most_common_parts = 0
        candidates: list[str] = []
        for key, parts in self._by_stem.get(video_parts[0], ()):
            common_parts = _common_length(video_parts, parts)
            if common_parts > most_common_parts:
                most_common_parts, candidates = common_parts, []
            if common_parts == most_common_parts:
                candidates.append(key)
        if len({self.texts[key] for key in candidates}) != 1:
            return None
        return candidates[0]

    def text(self, name: str) -> str | None:
        """The prompt of a video."""
        key = self.key(name)
        return None if key is None else self.texts[key]

    def unmatched(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """(videos without a prompt, prompts without a video)."""
        keys = {name: self.key(name) for name in names}
        used_keys = set(keys.values())
        return [n for n, key in keys.items() if key is None], [
            k for k in self.texts if k not in used_keys
        ]


def load(path: str | pathlib.Path) -> Prompts:
    """Reads a file of prompts; raises `UserError` with one sentence for what is wrong with it."""
    path = pathlib.Path(path)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        texts = _of_lines(read_json_lines(path, "the prompts"), path)
    else:
        texts = _of_object(read_json(path, "the prompts"), path)
    if not texts:
        raise UserError(f"the prompts {path} hold no prompt; {FORMS}")
    return Prompts(texts, sha256_of(path))


def _of_object(content: Any, path: pathlib.Path) -> dict[str, str]:
    if not isinstance(content, dict):
        raise UserError(f"the prompts {path} are not an object; {FORMS}")
    if isinstance(content.get("captions"), list):
        return {path.stem: _text(content, str(path))}
    return {
        whole_text(name, f"{path}: the name {name!r}"): _text(value, f"{path}: {name}")
        for name, value in content.items()
    }


def _of_lines(lines: Iterable[tuple[int, Any]], path: pathlib.Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, entry in lines:
        location = f"{path}, line {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str | int):
            raise UserError(f'{location} has no "id"; {FORMS}')
        name = whole_text(str(entry["id"]), f"{location}: the id")
        if same_name(name) in map(same_name, texts):
            raise UserError(f"{location} has the id {name} for the second time")
        texts[name] = _text(entry.get("prompt", entry), location)
    return texts


def _text(value: Any, location: str) -> str:
    """A prompt, or a story's captions one after the other."""
    if isinstance(value, str):
        if is_blank(whole_text(value, f"{location}: the prompt")):
            raise UserError(f"{location}: the prompt is empty")
        return value.strip()
    if isinstance(value, dict) and "captions" in value:
        value = value["captions"]
    if isinstance(value, list):
        return " ".join(parse_story(value, location).captions)
    raise UserError(f"{location} has neither a prompt nor captions; {FORMS}")


def _name_parts(name: str) -> tuple[str, ...]:
    """Folders and stem, the last first; only suffixes of videos are taken off."""
    *folders, last = same_name(name).replace("\\", "/").split("/")
    return (without_suffix(last) or last, *reversed(folders))


def _common_length(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Returns the length of the common prefix."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count
