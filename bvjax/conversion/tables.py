"""What a name table is made of, and its expansion for one model: who is called what, in which shape.

A row names a tensor, or a layer with its kernel and bias, in our files and in each published
format.  "{i}" stands for the number of a transformer layer, "{k}" for any other number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Kind(NamedTuple):
    """How a leaf is laid out there: our axes are theirs in the order `axes`, then merged.

    `theirs` gives the shape there from ours; with `axes` None both orders are the same.
    """

    leaf: str
    leaf_there: str
    theirs: Callable[[Shape], Shape]
    axes: tuple[int, ...] | None = None


def _with(*ones: int) -> Callable[[Shape], Shape]:
    return lambda shape: (*shape, *ones)


_BIAS = Kind("bias", "bias", lambda s: s)
MATRIX = (Kind("kernel", "weight", lambda s: (s[1], s[0]), (1, 0)),)
LINEAR = (*MATRIX, _BIAS)
CONV2D = (Kind("kernel", "weight", lambda s: (s[3], s[2], s[0], s[1]), (2, 3, 1, 0)), _BIAS)
CONV3D = (
    Kind("kernel", "weight", lambda s: (s[4], s[3], s[0], s[1], s[2]), (2, 3, 4, 1, 0)),
    _BIAS,
)
SCALE = (Kind("scale", "weight", lambda s: s),)
AFFINE = (*SCALE, _BIAS)
EMBED = (Kind("embedding", "weight", lambda s: s),)
GAMMA_VIDEO = (Kind("gamma", "gamma", _with(1, 1, 1)),)
GAMMA_IMAGE = (Kind("gamma", "gamma", _with(1, 1)),)
PLAIN = (Kind("", "", lambda s: s),)
LEADING_ONE = (Kind("", "", lambda s: (1, *s)),)


def patch_conv(patch: Shape) -> tuple[Kind, ...]:
    """A Dense over flattened patches (c, pt, ph, pw) there is a Conv3d [out, c, pt, ph, pw]."""
    size = math.prod(patch)
    theirs = lambda s: (s[1], s[0] // size, *patch)
    return (Kind("kernel", "weight", theirs, (1, 2, 3, 4, 0)), _BIAS)


class Row(NamedTuple):
    """One line of a table."""

    ours: str
    theirs: tuple[str, ...]  # one name per format of the table
    kinds: tuple[Kind, ...]


class Spec(NamedTuple):
    """One tensor on both sides."""

    ours: str
    theirs: str
    shape: Shape
    shape_there: Shape
    axes: tuple[int, ...] | None

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """The tensor of the other side as ours; the bits of its values stay."""
        if self.axes is not None:
            array = array.transpose(self.axes)
        return np.ascontiguousarray(array.reshape(self.shape))

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Inverse of `to_ours`."""
        if self.axes is None:
            return np.ascontiguousarray(array.reshape(self.shape_there))
        split = array.reshape([self.shape_there[axis] for axis in self.axes])
        return np.ascontiguousarray(split.transpose(np.argsort(self.axes)))


def expand(
    rows: list[Row],
    column: int,
    shapes: Mapping[str, Shape],
    numbers: Callable[[int], Mapping[str, int]] = lambda k: {},
) -> list[Spec]:
    """The tensors of a model whose tensors on our disk are `shapes`, in their order.

    Args:
        column: index of the format whose names are used.
        numbers: more numbers for the names there, from "{k}".

    Raises:
        KeyError: a tensor of ours has no row, so this format cannot express it.
    """
    patterns = [(_pattern(row, kind), row, kind) for row in rows for kind in row.kinds]
    specs = []
    for name, shape in shapes.items():
        for pattern, row, kind in patterns:
            match = pattern.fullmatch(name)
            if match and row.theirs[column]:
                found = {key: int(value) for key, value in match.groupdict().items()}
                there = row.theirs[column].format(**found, **numbers(found.get("k", 0)))
                there = f"{there}.{kind.leaf_there}" if kind.leaf_there else there
                specs.append(Spec(name, there, shape, kind.theirs(shape), kind.axes))
                break
        else:
            raise KeyError(name)
    return specs


def _pattern(row: Row, kind: Kind) -> re.Pattern:
    name = f"{row.ours}/{kind.leaf}" if kind.leaf else row.ours
    return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(name)))
