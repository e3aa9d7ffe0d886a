"""Name tables and their expansion for one model: names and shapes in bvjax and in each format.

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


class LeafTransform(NamedTuple):
    """The transform of one leaf: the external axes are permuted by `axes`, then merged.

    `external_shape` maps the bvjax shape to the external one; `axes` None means no permutation.
    """

    leaf: str
    external_leaf: str
    external_shape: Callable[[Shape], Shape]
    axes: tuple[int, ...] | None = None


def _appending(*sizes: int) -> Callable[[Shape], Shape]:
    return lambda shape: (*shape, *sizes)


_BIAS = LeafTransform("bias", "bias", lambda s: s)
MATRIX = (LeafTransform("kernel", "weight", lambda s: (s[1], s[0]), (1, 0)),)
LINEAR = (*MATRIX, _BIAS)
CONV2D = (
    LeafTransform("kernel", "weight", lambda s: (s[3], s[2], s[0], s[1]), (2, 3, 1, 0)),
    _BIAS,
)
CONV3D = (
    LeafTransform("kernel", "weight", lambda s: (s[4], s[3], s[0], s[1], s[2]), (2, 3, 4, 1, 0)),
    _BIAS,
)
SCALE = (LeafTransform("scale", "weight", lambda s: s),)
AFFINE = (*SCALE, _BIAS)
EMBED = (LeafTransform("embedding", "weight", lambda s: s),)
GAMMA_VIDEO = (LeafTransform("gamma", "gamma", _appending(1, 1, 1)),)
GAMMA_IMAGE = (LeafTransform("gamma", "gamma", _appending(1, 1)),)
PLAIN = (LeafTransform("", "", lambda s: s),)
LEADING_ONE = (LeafTransform("", "", lambda s: (1, *s)),)


def patch_conv(patch: Shape) -> tuple[LeafTransform, ...]:
    """Returns the leaves of a Dense over patches (c, pt, ph, pw), externally a Conv3d [out, c, pt, ph, pw]."""
    size = math.prod(patch)
    external_shape = lambda s: (s[1], s[0] // size, *patch)
    return (LeafTransform("kernel", "weight", external_shape, (1, 2, 3, 4, 0)), _BIAS)


class Row(NamedTuple):
    """One row of a name table."""

    name: str
    external_names: tuple[str, ...]  # one name per format of the table
    leaves: tuple[LeafTransform, ...]


class TensorSpec(NamedTuple):
    """The names and shapes of one tensor in bvjax and in another format."""

    name: str
    external_name: str
    shape: Shape
    external_shape: Shape
    axes: tuple[int, ...] | None

    def to_internal(self, array: np.ndarray) -> np.ndarray:
        """Converts an external tensor to bvjax's shape, bit-exact."""
        if self.axes is not None:
            array = array.transpose(self.axes)
        return np.ascontiguousarray(array.reshape(self.shape))

    def to_external(self, array: np.ndarray) -> np.ndarray:
        """Inverse of `to_internal`."""
        if self.axes is None:
            return np.ascontiguousarray(array.reshape(self.external_shape))
        split = array.reshape([self.external_shape[axis] for axis in self.axes])
        return np.ascontiguousarray(split.transpose(np.argsort(self.axes)))


def expand(
    rows: list[Row],
    column: int,
    shapes: Mapping[str, Shape],
    derived_numbers: Callable[[int], Mapping[str, int]] = lambda k: {},
) -> list[TensorSpec]:
    """Returns the specs of a model's tensors, in the order of `shapes`, their bvjax shapes on disk.

    Args:
        column: index of the format whose names are used.
        derived_numbers: more numbers for the external names, from "{k}".

    Raises:
        KeyError: a tensor of ours has no row, so this format cannot express it.
    """
    patterns = [(_pattern(row, leaf), row, leaf) for row in rows for leaf in row.leaves]
    specs = []
    for name, shape in shapes.items():
        for pattern, row, leaf in patterns:
            match = pattern.fullmatch(name)
            if match and row.external_names[column]:
                indices = {key: int(value) for key, value in match.groupdict().items()}
                external_name = row.external_names[column].format(
                    **indices, **derived_numbers(indices.get("k", 0))
                )
                external_name = (
                    f"{external_name}.{leaf.external_leaf}" if leaf.external_leaf else external_name
                )
                specs.append(
                    TensorSpec(name, external_name, shape, leaf.external_shape(shape), leaf.axes)
                )
                break
        else:
            raise KeyError(name)
    return specs


def _pattern(row: Row, leaf: LeafTransform) -> re.Pattern:
    name = f"{row.name}/{leaf.leaf}" if leaf.leaf else row.name
    return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(name)))
