"""What the commands of data pipelines have alike: their folders, and what they say at the end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from bvjax import console
from bvjax.plain_text import shown


def add_folders(parser: argparse.ArgumentParser, **folders: str) -> None:
    """Options of folders that must be given: their names, and what is in them."""
    for name, what in folders.items():
        parser.add_argument(
            f"--{name}", type=console.path, required=True, metavar="DIR", help=f"folder {what}"
        )


def say_problems(problems: Mapping[str, str], before: str = "") -> None:
    """Says a sentence for each film."""
    for name, sentence in problems.items():
        console.say(f"{shown(name)}: {before}{sentence}")


def say_shortened(shortened: Mapping[str, int]) -> None:
    """Says how many captions of each film were cut at a word for the text encoder."""
    for name, count in shortened.items():
        what = "a caption was" if count == 1 else f"{count} captions were"
        console.say(f"{shown(name)}: {what} longer than the text encoder takes, and shortened")


def examples_text(examples: Mapping[str, int]) -> str:
    """Numbers of examples of each split: "2 for train, 0 for test"."""
    return ", ".join(f"{count} for {side}" for side, count in examples.items()) or "none"
