"""People's text in pictures: in fonts that have its characters, and no wider than its place."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable

from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

PLAIN = "DejaVu Sans"  # comes with matplotlib
REPLACEMENT = "?"
# Have a glyph for every character: a box.
_BOXES = ("Last Resort", "LastResort", "Unifont Upper", "Adobe Blank")


def drawable(text: str) -> tuple[str, list[str], str]:
    """Returns text as it can be drawn, the font families it needs in order, and what none of them has.

    White space is one space, marks without a look of their own are left out, and a character that
    no installed font has becomes `REPLACEMENT`.
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    text = "".join(c for c in text if unicodedata.category(c)[0] != "C" and not _selector(c))
    families, missing = [PLAIN], set(text) - _characters(_plain_file())
    if missing:
        for name, file in _installed():
            covered = missing & _characters(file)
            if covered:
                families.append(name)
                missing -= covered
            if not missing:
                break
    undrawable = "".join(dict.fromkeys(c for c in text if c in missing))
    return text.translate({ord(c): REPLACEMENT for c in undrawable}), families, undrawable


def shorten(drawn: Text, canvas: FigureCanvasAgg, width: float, tail: str) -> None:
    """Cuts the text of `drawn` to what fits with `tail` after it into `width` pixels."""
    text, renderer = drawn.get_text(), canvas.get_renderer()

    def fits(count: int) -> bool:
        whole = text if count == len(text) else text[:count].rstrip() + "\u2026"
        drawn.set_text(whole + tail)
        return drawn.get_window_extent(renderer).width <= width

    if fits(len(text)):
        return
    low, high = 0, len(text) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    fits(low)


def _selector(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f"


def _plain_file() -> str:
    return font_manager.findfont(PLAIN, fallback_to_default=True)


@functools.cache
def _characters(file: str) -> frozenset[str]:
    """The characters that a font can draw as outlines."""
    try:
        font = FT2Font(file)
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except (
        OSError,
        RuntimeError,
        ValueError,
    ):  # pictures of emoji in place of outlines, or damaged
        return frozenset()


def _installed() -> Iterable[tuple[str, str]]:
    """(family, file) of the installed fonts, upright ones first, in a fixed order."""
    fonts = sorted(
        font_manager.fontManager.ttflist,
        key=lambda font: (
            font.style != "normal",
            str(font.weight) not in ("400", "normal"),
            font.name,
        ),
    )
    return [(font.name, font.fname) for font in fonts if not font.name.startswith(_BOXES)]
