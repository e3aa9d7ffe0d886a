"""Checks of one video of LV-Bench's form, its captions and its class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bvjax.caption_times import Stamp, inclusive, split_times
from bvjax.errors import UserError
from bvjax.lvbench.video import Video
from bvjax.story import parse_story, read_caption

CLASSES = ("Humans", "Animals", "Environment")  # of Table 1
TAIL = 5.0  # seconds at a video's end that may be without a caption: the longest chunk of LV-Bench
LEAST_FRAMES = 30  # ten segments of the three frames that motion smoothness needs


def class_of(content: Any) -> str:
    """The class that an entry names, as `CLASSES` spells it; "" for none or an unknown one."""
    class_name = content.get("class", "") if isinstance(content, Mapping) else ""
    classes = {name.lower(): name for name in CLASSES}
    return classes.get(class_name.lower(), "") if isinstance(class_name, str) else ""


def class_problems(content: Any) -> Iterator[str]:
    """Yields a sentence if an entry names a class that is not in Table 1."""
    class_name = content.get("class", "") if isinstance(content, Mapping) else ""
    if class_name != "" and not class_of(content):
        yield f"the class is {class_name!r}; it can be {', '.join(CLASSES)}"


def video_problems(video: Video, shortest: float) -> Iterator[str]:
    """Yields a sentence for a decoded video that is too short (seconds)."""
    seconds = seconds_of(video)
    if seconds < shortest:
        yield f"lasts {seconds:.1f} s; it must last at least {shortest:g} s"
    if video.frames < LEAST_FRAMES:
        yield f"has {video.frames} frames; an evaluation needs at least {LEAST_FRAMES}"


def caption_problems(content: Any, video: Video | None) -> Iterator[str]:
    """Yields all problems of an entry's captions, including those that `parse_story` refuses.

    Args:
        content: {"captions": [...]}, or the list alone.
        video: theirs, if it is known and can be decoded.
    """
    captions = content.get("captions") if isinstance(content, Mapping) else content
    if not (isinstance(captions, list) and captions and all(isinstance(c, str) for c in captions)):
        try:
            parse_story(content, "captions")
        except UserError as error:
            yield str(error)
        return
    stamps: list[tuple[int, Stamp]] = []  # with the captions' numbers
    for number, caption in enumerate(captions, start=1):
        try:
            _, stamp = read_caption(caption, f"caption {number}")
        except UserError as error:
            yield str(error)
            try:  # its times count all the same
                stamp = split_times(caption)[1]
            except UserError:
                continue
        if stamp is None:
            yield f'caption {number} has no time range, such as "(00s - 03s)."'
        else:
            stamps.append((number, stamp))
    has_times, inclusive_second = bool(stamps), int(inclusive([stamp for _, stamp in stamps]))
    expected: float = 0
    for number, (begin, end, _) in stamps:
        if end + inclusive_second <= begin:
            yield f"caption {number} ends at {end:g}s, before it starts at {begin:g}s"
        elif begin < expected:
            yield f"caption {number} starts at {begin:g}s and overlaps what goes on to {expected:g}s"
        elif begin > expected:
            yield f"caption {number} starts at {begin:g}s; there is a gap from {expected:g}s on"
        expected = max(expected, end + inclusive_second)
    if video is not None and has_times:
        seconds = seconds_of(video)
        if expected - 1 >= seconds:
            yield f"captions go on to {expected:g} s, past the video's end at {seconds:.1f} s"
        elif expected < seconds - TAIL:
            yield f"captions end at {expected:g} s, the video at {seconds:.1f} s"


def seconds_of(video: Video) -> float:
    """Length of a video; 0 where its file has no times."""
    return video.frames / video.fps if video.fps else 0.0
