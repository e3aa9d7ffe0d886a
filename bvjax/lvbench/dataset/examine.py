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
from bvjax.lvbench.dataset.files import DatasetEntry, Problem, gather
from bvjax.lvbench.dataset.split import SPLIT_FILE, load_split, split_problems
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
class ExaminationResult:
    """The result of decoding all videos and reading all captions.

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
    contents = gather(pathlib.Path(folder))
    for problem in contents.problems + _unmatched(contents.videos, contents.entries):
        raise UserError(f"{problem.location}: {problem.message}")
    return [
        _record(name, contents.videos[name], contents.entries[name])
        for name in sorted(contents.videos)
    ]


def validate(folder: pathlib.Path, **options: Any) -> list[Problem]:
    """Returns the problems of a folder, file by file; arguments and errors are those of `examine`."""
    return list(examine(folder, **options).problems)


def examine(
    folder: pathlib.Path,
    shortest: float = SHORTEST,
    track: Callable[[Sequence[pathlib.Path]], Iterable[pathlib.Path]] = iter,
) -> ExaminationResult:
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
    contents, split = gather(folder), load_split(folder)
    problems = list(contents.problems)
    has_no_captions = not contents.entries and not problems and split is None
    if not has_no_captions:
        problems += _unmatched(contents.videos, contents.entries)
    videos: dict[str, Video] = {}
    first_path_by_hash: dict[str, str] = {}  # by content hash
    names = {path: name for name, path in contents.videos.items()}
    for path in track([contents.videos[name] for name in sorted(contents.videos)]):
        location = name_of(path, folder)
        try:
            video = probe(path, folder)
        except UserError as error:
            problems.append(Problem(location, str(error)))
            continue
        videos[names[path]] = video
        video_messages = list(checks.video_problems(video, 0.0 if has_no_captions else shortest))
        if video.sha256 in first_path_by_hash:
            video_messages.append(f"is the same file as {first_path_by_hash[video.sha256]}")
        first_path_by_hash.setdefault(video.sha256, location)
        problems += [Problem(location, message) for message in video_messages]
    for name, entry in contents.entries.items():
        caption_messages = (
            *checks.class_problems(entry.content),
            *checks.caption_problems(entry.content, videos.get(name)),
        )
        problems += [Problem(entry.location, message) for message in caption_messages]
    problems += [Problem(location, message) for location, message in unfinished_runs(folder)]
    problems += [
        Problem(SPLIT_FILE, message) for message in split_problems(split, set(contents.videos))
    ]
    return ExaminationResult(videos, tuple(sorted(problems, key=lambda problem: problem.location)))


def lines(problems: Sequence[Problem]) -> list[str]:
    """Problems as text: a heading for each file, what is wrong with it below."""
    if not problems:
        return ["no problems found"]
    locations = dict.fromkeys(problem.location for problem in problems)
    text_lines: list[str] = []
    for location in locations:
        text_lines.append(location)
        text_lines += [
            f"  {problem.message}" for problem in problems if problem.location == location
        ]
    count = lambda n, message: f"{n} {message}{'' if n == 1 else 's'}"
    return [
        *text_lines,
        "",
        f"{count(len(problems), 'problem')} in {count(len(locations), 'place')}",
    ]


def _unmatched(
    videos: Mapping[str, pathlib.Path], entries: Mapping[str, DatasetEntry]
) -> tuple[Problem, ...]:
    without_video = [e for name, e in entries.items() if name not in videos]
    without_captions = [name for name in videos if name not in entries]
    return (
        *(Problem(entry.location, f"there is no video {entry.name}") for entry in without_video),
        *(Problem(name + videos[name].suffix, "has no captions") for name in without_captions),
    )


def _record(name: str, video: pathlib.Path, entry: DatasetEntry) -> Record:
    for problem in checks.class_problems(entry.content):
        raise UserError(f"{entry.location}: {problem}")
    story = parse_story(entry.content, entry.location)
    if story.spans is None:
        raise UserError(f'{entry.location}: captions have no time ranges, such as "(00s - 03s)."')
    return Record(name, video, story, checks.class_of(entry.content))
