"""LV-Bench's form: a folder of long videos, with captions that cover them second by second.

The set itself has not been released.  What is public of its form is one example (appendix A.7), the
three object classes (Table 1) and the random 8:2 split (section 4), so a local copy may look like
any of these, videos lying anywhere below the folder:

  NAME.mp4 with NAME.json    {"captions": ["A swan glides (00s - 03s).", ...], "class": "Animals"}
  captions.json              {"NAME": {"captions": [...]}, ...}
  captions.jsonl             {"id": "NAME", "captions": [...]} a line

NAME is a video's path below the folder, with or without its suffix; "class" may be left out.
split.json, {"seed": 0, "train": [NAME, ...], "test": [NAME, ...]}, holds the split
(`split`).
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bvjax.errors import UserError
from bvjax.lvbench.dataset import checks
from bvjax.lvbench.dataset.files import Entry, Problem, gather
from bvjax.lvbench.dataset.split import SPLIT_FILE, load_split, wrong_split
from bvjax.lvbench.video import Video, name_of, probe, unfinished_runs
from bvjax.story import Story, parse_story

SHORTEST = 50.0  # seconds that every video of LV-Bench lasts at least (section 4)


@dataclasses.dataclass(frozen=True)
class Record:
    """A video and what is said of it.

    name: its path below the folder, without suffix. story: captions with [start, stop) seconds.
    object_class: one of `checks.CLASSES`; "" where nobody says.
    """

    name: str
    video: pathlib.Path
    story: Story
    object_class: str = ""


@dataclasses.dataclass(frozen=True)
class Examined:
    """What decoding and reading everything told.

    videos: those that can be decoded, by name. problems: what is wrong, in order of files.
    """

    videos: Mapping[str, Video]
    problems: tuple[Problem, ...]


def read(folder: pathlib.Path) -> list[Record]:
    """All videos of a folder with their captions, by name; no video is decoded.

    Raises:
        UserError: no videos, captions that are missing, twice there or without a video, no or wrong
            time ranges, or an unknown class.
    """
    found = gather(pathlib.Path(folder))
    for problem in found.problems + _unmatched(found.videos, found.entries):
        raise UserError(f"{problem.where}: {problem.what}")
    return [_record(name, found.videos[name], found.entries[name]) for name in sorted(found.videos)]


def validate(folder: pathlib.Path, **options: Any) -> list[Problem]:
    """What is wrong with a folder, file by file; arguments and errors are those of `examine`."""
    return list(examine(folder, **options).problems)


def examine(
    folder: pathlib.Path,
    shortest: float = SHORTEST,
    track: Callable[[Sequence[pathlib.Path]], Iterable[pathlib.Path]] = iter,
) -> Examined:
    """Decodes every video and reads all captions; lists what is wrong instead of stopping at it.

    A folder with neither captions nor a split is taken for videos that are to be evaluated: these
    must decode, differ from each other and be long enough for that.

    Args:
        shortest: seconds that a video of a folder with captions must last.
        track: follows the work, for a progress bar: gives the same paths, as they are taken.

    Raises:
        UserError: there is no such folder, or no video in it.
    """
    folder = pathlib.Path(folder)
    found, split = gather(folder), load_split(folder)
    problems = list(found.problems)
    plain = not found.entries and not problems and split is None
    if not plain:
        problems += _unmatched(found.videos, found.entries)
    videos: dict[str, Video] = {}
    first_with: dict[str, str] = {}  # by content hash
    names = {path: name for name, path in found.videos.items()}
    for path in track([found.videos[name] for name in sorted(found.videos)]):
        where = name_of(path, folder)
        try:
            video = probe(path, folder)
        except UserError as error:
            problems.append(Problem(where, str(error)))
            continue
        videos[names[path]] = video
        told = list(checks.wrong_video(video, 0.0 if plain else shortest))
        if video.sha256 in first_with:
            told.append(f"is the same file as {first_with[video.sha256]}")
        first_with.setdefault(video.sha256, where)
        problems += [Problem(where, what) for what in told]
    for name, entry in found.entries.items():
        told = (
            *checks.wrong_class(entry.content),
            *checks.wrong_captions(entry.content, videos.get(name)),
        )
        problems += [Problem(entry.where, what) for what in told]
    problems += [Problem(where, what) for where, what in unfinished_runs(folder)]
    problems += [Problem(SPLIT_FILE, what) for what in wrong_split(split, set(found.videos))]
    return Examined(videos, tuple(sorted(problems, key=lambda problem: problem.where)))


def lines(problems: Sequence[Problem]) -> list[str]:
    """Problems as text: a heading for each file, what is wrong with it below."""
    if not problems:
        return ["no problems found"]
    places = dict.fromkeys(problem.where for problem in problems)
    told: list[str] = []
    for where in places:
        told.append(where)
        told += [f"  {problem.what}" for problem in problems if problem.where == where]
    count = lambda n, what: f"{n} {what}{'' if n == 1 else 's'}"
    return [*told, "", f"{count(len(problems), 'problem')} in {count(len(places), 'place')}"]


def _unmatched(
    videos: Mapping[str, pathlib.Path], entries: Mapping[str, Entry]
) -> tuple[Problem, ...]:
    lost = [e for name, e in entries.items() if name not in videos]
    bare = [name for name in videos if name not in entries]
    return (
        *(Problem(entry.where, f"there is no video {entry.name}") for entry in lost),
        *(Problem(name + videos[name].suffix, "has no captions") for name in bare),
    )


def _record(name: str, video: pathlib.Path, entry: Entry) -> Record:
    for what in checks.wrong_class(entry.content):
        raise UserError(f"{entry.where}: {what}")
    story = parse_story(entry.content, entry.where)
    if story.spans is None:
        raise UserError(f'{entry.where}: captions have no time ranges, such as "(00s - 03s)."')
    return Record(name, video, story, checks.class_of(entry.content))
