"""Times in captions: which seconds a caption covers, in the forms that people write.

  A fox sits (00s - 03s).        LV-Bench's: whole seconds, the last of them counted
  [0.0s - 3.5s] A fox sits.      fractions: up to 3.5 s
  A fox sits (0:00 - 0:04)       a clock's, m:ss or h:mm:ss
  0:00 - 0:04: A fox sits.       without brackets, with a clock or a unit

They stand in front of a caption or at its end.  What looks like them but cannot be read is refused,
because it would become part of the caption.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from bvjax.errors import UserError

LONGEST = 24 * 3600  # seconds that a story can last

_DASH = r"(?:\s*(?:-+>|[-\u2010-\u2015\u2212\u2192~]+)\s*|\s+(?:to|until)\s+)"
_UNIT = r"(?:s|secs?|seconds?)\b"
_CLOCK = r"(?:[0-9]+:)?[0-9]+:[0-9]{2}(?:[.,][0-9]+)?"
_LONG = r"[0-9]+m\s*[0-9]+s"
_NUMBER = r"[0-9]+(?:[.,][0-9]+)?"
_RANGE = (
    rf"(?:from\s+)?(?:{_CLOCK}{_DASH}{_CLOCK}|{_LONG}{_DASH}{_LONG}"
    rf"|{_NUMBER}\s*(?:{_UNIT})?{_DASH}{_NUMBER}\s*{_UNIT})"
)
_OPEN, _CLOSE = r"[(\[{<\uff08\u3010]", r"[)\]}>\uff09\u3011]"
_WITHIN, _BARE = rf"{_OPEN}\s*(?P<within>{_RANGE})\s*{_CLOSE}", rf"(?P<bare>{_RANGE})"
_JOIN = r"[\s:\u2013\u2014-]*"
_AFTER = re.compile(
    rf"{_JOIN}(?:{_WITHIN}|(?:(?<=^)|(?<=[\s.,;:!?])){_BARE})\s*(?P<stop>[.\u3002]?)\s*$", re.I
)
_BEFORE = re.compile(rf"\s*(?:{_WITHIN}|{_BARE}(?!\w|:[0-9]))\s*[:.,;|\u2010-\u2015-]*\s*", re.I)
_NEAR = 400  # characters at a caption's ends in which times are looked for
_POINT = re.compile(rf"{_CLOCK}|{_LONG}|{_NUMBER}", re.I)
# "the 80s - 90s": without brackets, two decades are not times.
_DECADES = re.compile(rf"[0-9]*[2-9]0s{_DASH}[0-9]*[0-9]0s", re.I)
SENTENCE_END = (".", "!", "?", "\u2026", '"', "\u201d", "\u3002")

_BRACKETS = re.compile(rf"{_OPEN}([^()\[\]{{}}<>\uff08\uff09\u3010\u3011]*){_CLOSE}")
_WORDS = r"from|to|until|at|and|time|t|ms|s|secs?|seconds?|mins?|minutes?|hrs?|hours?|m(?=\s*[0-9])"
_ONLY_TIME = re.compile(rf"(?:{_WORDS}|[0-9\s:.,=~>\u2010-\u2015\u2212\u2192-])+", re.I)
_IS_RANGE = re.compile(
    rf"[0-9]:[0-9]{{2}}.*?{_DASH}|{_DASH}.*[0-9]:[0-9]{{2}}"  # a clock and a dash
    rf"|(?<![0-9])[0-9]{{1,3}}(?:[.,][0-9]+)?\s*[a-z]*{_DASH}[0-9]{{1,3}}(?![0-9])"
    rf"|[0-9]\s*[a-z]+{_DASH}[0-9]+(?:[.,][0-9]+)?\s*[a-z]+",
    re.I,
)
_IS_POINT = re.compile(
    rf"(?:(?:at|time|t)?[\s:=]*)(?:{_CLOCK}|{_NUMBER}\s*(?:ms|secs?|seconds?|s))[\s.]*", re.I
)
_DECADE = re.compile(r"[0-9]*[2-9]0s|[0-9]+[0-9]0s", re.I)
_STARTS = re.compile(
    rf"\s*(?:{_CLOCK}(?=[\s:|\u2010-\u2015-]|$)|{_NUMBER}{_DASH}{_NUMBER}\s*[:|])", re.I
)


class Stamp(NamedTuple):
    """Times as a caption has them: first and last in seconds, and whether they are LV-Bench's whole seconds."""

    first: int | float
    last: int | float
    whole: bool


def split_times(caption: str, where: str = "the caption") -> tuple[str, Stamp | None]:
    """Returns a caption without its times, and the times or None.

    The full stop that follows times at the end goes back to the end of the sentence:
    "A fox sits (00s - 03s)." gives "A fox sits." and 0, 3.

    Raises:
        UserError: something in it looks like times and cannot be read; the message begins with
            `where`.
    """
    if not any("0" <= character <= "9" for character in caption):
        return caption.strip(), None
    caption = text = caption.strip()
    stamp = None
    after = _AFTER.search(caption, max(0, len(caption) - _NEAR))
    before = _BEFORE.match(caption, 0, _NEAR)
    if after and not _decades(after):
        text, stamp = caption[: after.start()].strip(), _stamp(after, where)
        if after["bare"]:
            text = text.rstrip(",;:").rstrip()
        if after["stop"] and not text.endswith(SENTENCE_END):
            text += "."
    elif before and not _decades(before):
        text, stamp = caption[before.end() :].strip(), _stamp(before, where)
    _refuse_others(text, stamp, where)
    return text, stamp


def inclusive(stamps: Sequence[Stamp]) -> bool:
    """Returns True where the last second of a story's times counts: (00s - 03s) are four seconds.

    It is in LV-Bench's form, and for a clock without fractions where captions begin a second after
    the one before ends.
    """
    if any(isinstance(time, float) for stamp in stamps for time in stamp[:2]):
        return False
    if all(stamp.whole for stamp in stamps):
        return True
    return len(stamps) > 1 and stamps[1].first == stamps[0].last + 1


def _stamp(match: re.Match[str], where: str) -> Stamp:
    text = match["within"] or match["bare"]
    points = _POINT.findall(text)
    first, last = (_seconds(point) for point in points)
    if max(first, last) > LONGEST:
        raise UserError(
            f'{where}: the times "{text[:60]}" are past {LONGEST} s, the longest that a story can be'
        )
    return Stamp(first, last, all(point.isdecimal() for point in points))


def _seconds(text: str) -> int | float:
    """Seconds of a point in time: whole ones unless it has a fraction."""
    text = "".join(text.lower().rstrip("s").replace(",", ".").split())
    parts = [float(part) for part in re.split("[:m]", text)]
    seconds = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    return seconds if "." in text or seconds > LONGEST else int(seconds)


def _decades(match: re.Match[str]) -> bool:
    return bool(match["bare"] and _DECADES.fullmatch(match["bare"]))


def _refuse_others(text: str, stamp: Stamp | None, where: str) -> None:
    """Raises `UserError` for times that are left in a caption without the ones that were read."""
    for match in _BRACKETS.finditer(text):
        inside = match[1].strip()
        if not _ONLY_TIME.fullmatch(inside) or _DECADE.fullmatch(inside):
            continue
        at_an_end = not (text[: match.start()].strip(" .") and text[match.end() :].strip(" .:"))
        too_long = len(inside) > _NEAR
        if too_long or _IS_RANGE.search(inside) or (at_an_end and _IS_POINT.fullmatch(inside)):
            raise _unreadable(match[0], where)
    if stamp is None and (start := _STARTS.match(text)):
        raise _unreadable(start[0].strip(), where)


def _unreadable(text: str, where: str) -> UserError:
    return UserError(
        f'{where}: "{text[:60]}" looks like times and cannot be read; write first and last second at the '
        'end, such as "(00s - 03s)", or put it in other words'
    )
