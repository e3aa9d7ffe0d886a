"""Text that people write, and text shown to people: how it is checked, compared and printed."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable

from bvjax.errors import UserError

_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE = re.compile("[0-9]{1,18}")
# Control characters, separators that break lines, lone surrogates, and marks that reverse the
# direction of the text after them.
_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Letters that show nothing: Hangul fillers, and the blank of Braille.
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u2800")


def whole_text(text: str, where: str) -> str:
    """Returns `text`; raises `UserError`, beginning with `where`, if it holds half a character.

    JSON's escapes and arguments that are not UTF-8 can hold surrogates without their other half,
    which no encoding can write.
    """
    surrogate = _SURROGATE.search(text)
    if surrogate:
        raise UserError(
            f"{where} has half a character, the lone surrogate U+{ord(surrogate[0]):04X}, as character "
            f"{surrogate.start() + 1}; write the whole character in UTF-8"
        )
    return text


def is_blank(text: str) -> bool:
    """Returns True if a caption without its invisible characters is nothing but punctuation."""
    return not any(
        character not in _FILLERS and unicodedata.category(character)[0] in "LNS"
        for character in text
    )


def same_name(name: str) -> str:
    """Returns a name as it is compared: in Unicode's form NFC.

    macOS stores "é" in file names as two characters, most keyboards write it as one.
    """
    return unicodedata.normalize("NFC", name)


def shown(text: str) -> str:
    """Returns text that can be printed: what would move the cursor or cannot be encoded is escaped."""
    return _NOT_SHOWN.sub(lambda match: json.dumps(match[0])[1:-1], text)


def whole_number(text: str) -> int | None:
    """Returns the number that the digits 0 to 9 stand for; None for any other text."""
    return int(text) if _WHOLE.fullmatch(text.strip()) else None


def size_text(count: int) -> str:
    """Returns a number of bytes in the unit that suits it: "3.2 GB", "1.0 kB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def listed(items: Iterable[str], limit: int = 5, between: str = ", ") -> str:
    """The items in one line as `shown`, those beyond `limit` counted: "a, b, c, d, e and 179 more"."""
    items = [shown(item) for item in items]
    more = len(items) - limit
    return between.join(items[:limit]) + (f" and {more} more" if more > 0 else "")
