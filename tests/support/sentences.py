"""What a message must be that is shown on a terminal."""

from __future__ import annotations

import unicodedata


def is_one_line(text: str) -> bool:
    """Nothing in it ends a line, moves the cursor, or cannot be encoded. (`str.isprintable` would
    also refuse characters that Python's tables do not have yet.)"""
    return not {"Cc", "Cs", "Zl", "Zp"} & set(map(unicodedata.category, text))
