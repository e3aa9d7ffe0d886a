"""Scaled 8-bit floats: weights stored as float8 beside their scale, as ComfyUI and others publish them.

    W = w8 * scale        scale of the whole tensor, or of each row

"X.weight" (float8) goes with "X.scale_weight" or "X.weight_scale".  Beside them may lie a mark
without content ("scaled_fp8"), the format's name as JSON ("X.comfy_quant"), and the scales of
activations ("scale_input", "input_scale"), which are no part of the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bvjax.conversion.tensors import Tensors
from bvjax.errors import UserError
from bvjax.files import parse_json
from bvjax.tensor_files import TensorInfo

MARKER = "scaled_fp8"
SCALES = ("scale_weight", "weight_scale")
NOT_WEIGHTS = ("scale_input", "input_scale", MARKER)
FORMAT_KEY = "comfy_quant"
FLOAT_DTYPES = ("float8_e4m3fn", "float8_e5m2", "float32", "bfloat16", "float16")


def dequantise(tensors: Tensors, path: Path) -> Tensors:
    """The same tensors with scaled ones multiplied out, in float32, and without the scales.

    A file that has no scales comes back as it is, whatever its dtypes.

    Raises:
        UserError: a scale without its weight, or of another shape; another format of weights.
    """
    scales: dict[str, str] = {}  # weight -> its scale
    infos = {}
    for name, info in tensors.infos.items():
        layer, _, leaf = name.rpartition(".")
        weight = f"{layer}.weight"
        if leaf == FORMAT_KEY:
            _check_format(name, tensors, path)
        elif leaf in SCALES:
            if weight not in tensors.infos or weight in scales:
                raise UserError(f"{path}: {name} is the scale of no tensor {weight}")
            scales[weight] = name
        elif leaf not in NOT_WEIGHTS:
            infos[name] = info
    shapes: dict[str, tuple[int, ...]] = {}
    for weight, scale in scales.items():
        rows, *rest = infos[weight].shape or (1,)
        scale_shape = tensors.infos[scale].shape
        if (
            infos[weight].dtype not in FLOAT_DTYPES
            or tensors.infos[scale].dtype not in FLOAT_DTYPES
        ):
            raise UserError(f"{path}: {weight} or {scale} is not floating point")
        count = int(np.prod(scale_shape, dtype=object))
        if count == 1:
            shapes[weight] = ()
        elif count == rows and scale_shape and scale_shape[0] == rows:
            shapes[weight] = (rows, *(1 for _ in rest))
        else:
            raise UserError(
                f"{path}: {scale} has shape {list(scale_shape)}; scales of blocks are not read, only one of "
                "the whole tensor or of each row"
            )
        infos[weight] = TensorInfo(infos[weight].shape, "float32")

    def read(name: str) -> np.ndarray:
        array = tensors.read(name)
        if name not in scales:
            return array
        scale = tensors.read(scales[name]).astype(np.float32).reshape(shapes[name])
        return array.astype(np.float32) * scale

    return Tensors(infos, read)


def _check_format(name: str, tensors: Tensors, path: Path) -> None:
    """Raises `UserError` naming the format, unless it is a scaled float8."""
    content = np.asarray(tensors.read(name)).tobytes()
    value: Any = parse_json(content, f"{path}: {name}")
    kind = value.get("format") if isinstance(value, dict) else value
    if kind not in FLOAT_DTYPES[:2]:
        raise UserError(f"{path} holds weights of the format {kind!r} ({name}), which is not read")
