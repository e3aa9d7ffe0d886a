"""Options of a run, from Python and from the command line."""

from __future__ import annotations

import numbers
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from bvjax.errors import UserError

Image = str | pathlib.Path | PIL.Image.Image | UInt8[np.ndarray, "h w 3"]

COUNTS = ("seed", "steps", "chunks", "video_chunks", "scale")  # options that are whole numbers


class Options(TypedDict, total=False):
    """Everything about a new run besides its story and its folder; what is left out is None or 0."""

    seed: int
    steps: int | None  # of the solver for a chunk; None leaves the configuration's
    chunks: int | None  # only so many of the story's
    image: Image | None  # the first frame
    video: str | pathlib.Path | None  # its end becomes the first chunks
    video_chunks: int | None  # how many; None takes all that leave one to generate
    video_part: str | None  # "end" (the default) or "start" of it
    # By number of a chunk: the strengths of the LoRAs from there on, {3: 0.5}, of several {3: (0.5, 0)}.
    lora_at: Mapping[int, float | Sequence[float]] | None
    scale: int | None  # whole factor by which video.mp4 is enlarged


def checked(options: Options) -> Options:
    """The options with their numbers as Python's; raises `UserError` for one that is not whole."""
    counts = whole_numbers(**{name: value for name, value in options.items() if name in COUNTS})
    return cast(Options, {**options, **counts})


def whole_numbers(**values: Any) -> dict[str, Any]:
    """Parameters that are whole numbers or None, NumPy's as Python's; raises `UserError` for others."""
    for name, value in values.items():
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if value is not None and not whole:
            raise UserError(f"`{name}` is {value!r}; it must be a whole number")
    return {name: None if value is None else int(value) for name, value in values.items()}


def check_seed(seed: int) -> None:
    """Raises `UserError` for what is not a seed."""
    if not 0 <= seed < 2**32:
        raise UserError(f"the seed is {seed}; it must be a whole number from 0 to {2**32 - 1}")
