"""What all commands share: how they log, and how they speak to the person at the terminal."""

from __future__ import annotations

import logging
import sys
from typing import TextIO


def set_up() -> None:
    """Plain log lines, and compiled programs kept between runs."""
    import absl.logging

    from bvjax import compilation

    absl.logging.set_verbosity(absl.logging.INFO)
    logger = logging.getLogger("absl")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    logging.getLogger("jax").setLevel(logging.ERROR)
    compilation.keep_programs()


def say(text: str, code: int = 0) -> int:
    """Lines on stderr, with nothing in them that steers the terminal; returns `code`."""
    from bvjax.plain_text import shown

    print("\n".join(map(shown, text.split("\n"))), file=sys.stderr)
    return code


class _Stderr(logging.StreamHandler):
    """Writes to what `sys.stderr` is when something is logged: it may have been replaced."""

    def __init__(self):
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr
