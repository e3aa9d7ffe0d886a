"""Arrays and pictures of a run folder: read only where they are what the run would have written."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from bvjax.array_files import first_line, read_npz
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.finite import is_finite
from bvjax.generate.conditions import Conditions


def read_conditions(path: pathlib.Path, model: ModelConfig) -> tuple[tuple[str, ...], Conditions]:
    """(captions, their text states) of conditions.npz.

    Raises `UserError` for a file that is not of this model, `FileNotFoundError` when there is none.
    """
    arrays = read_npz(path)
    captions = arrays.pop("captions", None)
    if captions is None or captions.dtype.kind != "U" or captions.ndim != 1:
        raise UserError(f"{path} has no captions")
    try:
        names = tuple(str(caption) for caption in captions)
    except (ValueError, SystemError) as error:  # numbers that are no character
        raise UserError(f"the captions in {path} are damaged: {first_line(error)}") from None
    count, text = len(captions), model.text
    shapes: dict[str, tuple[int, ...]] = {
        "text": (count, text.max_length, text.dim),
        "embedding": (count, text.dim),
        "null_text": (1, text.max_length, text.dim),
    }
    assert set(shapes) == {field.name for field in dataclasses.fields(Conditions)}
    _check_arrays(arrays, shapes, str(path))
    return names, Conditions(**arrays)


def read_picture(
    path: pathlib.Path, height: int, width: int
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture that must have this size; raises `UserError`."""
    try:
        with PIL.Image.open(path, formats=["PNG"]) as image:
            size = image.size
            if size == (width, height):
                return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's readers raise whatever a damaged file led them to
        raise UserError(f"{path} cannot be read: {first_line(error)}") from None
    raise UserError(f"{path} is {size[0]}x{size[1]}; the run's videos are {width}x{height}")


def _check_arrays(
    arrays: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    if set(arrays) != set(shapes):
        raise UserError(f"{where} holds {', '.join(sorted(arrays))}, not {', '.join(shapes)}")
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.float32:
            raise UserError(
                f"{name} in {where} is {list(array.shape)} {array.dtype}, not {list(shape)} float32"
            )
        if not is_finite(array):
            raise UserError(f"{name} in {where} is not finite")
