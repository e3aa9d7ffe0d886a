"""Options that the commands of this folder share, and their errors."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from bvjax.errors import UserError
from bvjax.plain_text import whole_number


def parser(doc: str) -> argparse.ArgumentParser:
    """Returns a parser with the options that say which model, and `--write-docs`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", metavar="DIR", help="weights folder; or give --preset")
    parser.add_argument("--preset", metavar="NAME", help="whose shapes random weights get")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override of the model, for example sampler.steps=10; may be repeated",
    )
    parser.add_argument(
        "--write-docs", action="store_true", help="put the result into docs/performance.md"
    )
    return parser


def whole(least: int = 1) -> Callable[[str], int]:
    """Type of an option: a whole number of `least` or more."""

    def number(text: str) -> int:
        value = whole_number(text)
        if value is None or value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return value

    return number


def run(command: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """The exit code of a command; bad input is one sentence and 2."""
    logging.getLogger("jax").setLevel(logging.ERROR)  # which tells what backends it does not find
    try:
        command(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
