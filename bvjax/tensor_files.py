"""Safetensors files, tensor by tensor: read in part, written without holding more than one tensor.

The library reads through a memory map, whose pages count as the process's own until they are
dropped, and writes only from a whole dictionary.  Checkpoints of 14B parameters need neither.
Format: 8 bytes of header length, the header as JSON, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from bvjax.errors import UserError
from bvjax.file_kinds import check_kind
from bvjax.files import parse_json
from bvjax.plain_text import shown

# Names of the format -> NumPy's.  8-bit floats are listed so that they can be named when refused.
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
NAMES = frozenset(dtype.name for dtype in CODES)


class TensorInfo(NamedTuple):
    """Shape and dtype of a tensor, known without reading it."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or the format's own where NumPy has none

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class TensorFile:
    """An open safetensors file: `infos`, `metadata`, and tensors on demand."""

    def __init__(self, path: Path):
        """Raises `UserError` when `path` is missing, cut short or no safetensors file."""
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"there is no weights file {path}")
        check_kind(self.path)
        try:
            with safe_open(self.path, "numpy"):  # checks the whole header against the file's size
                pass
            with open(self.path, "rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = parse_json(file.read(size), f"the header of {path}")
        except (SafetensorError, OSError, ValueError) as error:
            reason = shown(str(error).partition(", expected one of")[0])
            raise UserError(f"{path} is damaged or not a safetensors file ({reason})") from None
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self._offsets = {
            name: 8 + size + entry["data_offsets"][0] for name, entry in header.items()
        }
        self.infos = {
            name: TensorInfo(tuple(entry["shape"]), _dtype_name(entry["dtype"]))
            for name, entry in header.items()
        }

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """One tensor, or its part `index`: whole rows are read, from the first to the last in it.

        Raises `UserError` for a dtype that NumPy has not, and where the file is shorter than it was.
        """
        info = self.infos[name]
        if info.dtype not in NAMES:  # not NumPy's: its "U16" is text
            raise UserError(
                f"{self.path}: {name} has dtype {info.dtype}, which bvjax does not read"
            )
        dtype = np.dtype(info.dtype)
        if not index or not info.shape:
            return self._values(name, 0, math.prod(info.shape), dtype).reshape(info.shape)
        start, stop, step = index[0].indices(info.shape[0])
        assert step == 1
        row = math.prod(info.shape[1:])
        rows = self._values(name, start * row, (stop - start) * row, dtype)
        rows = rows.reshape(stop - start, *info.shape[1:])
        return np.ascontiguousarray(rows[(slice(None), *index[1:])])

    def _values(self, name: str, start: int, count: int, dtype: np.dtype) -> np.ndarray:
        """`count` values of a tensor from value `start` on."""
        with open(self.path, "rb") as file:
            file.seek(self._offsets[name] + start * dtype.itemsize)
            values = np.fromfile(file, dtype, count)
        if len(values) < count:
            raise UserError(f"{self.path} was cut short after it was opened: {name} is not whole")
        return values


class TensorWriter:
    """Writes a safetensors file tensor by tensor; it appears under its name when it is whole.

    with TensorWriter(path, {"a": TensorInfo((2, 3), "float32")}) as writer:
        writer.write("a", array)
    """

    def __init__(
        self, path: Path, infos: Mapping[str, TensorInfo], metadata: Mapping[str, str] | None = None
    ):
        self.path, self.infos = Path(path), dict(infos)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        self._offsets, end = {}, 0
        for name, info in self.infos.items():
            self._offsets[name] = end
            header[name] = {
                "dtype": CODES[np.dtype(info.dtype)],
                "shape": list(info.shape),
                "data_offsets": [end, end + info.nbytes],
            }
            end += info.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._start, self._head, self._left = 8 + len(text), text, set(self.infos)

    def __enter__(self) -> TensorWriter:
        self._file = open(self._temporary, "wb")
        self._file.write(len(self._head).to_bytes(8, "little") + self._head)
        return self

    def write(self, name: str, array: np.ndarray) -> None:
        """Writes a tensor, in any order, each once; raises `ValueError` for another shape or dtype."""
        info = self.infos[name]
        if (array.shape, array.dtype.name) != info:
            raise ValueError(f"{name} is {array.dtype.name}{list(array.shape)}, not {info}")
        self._left.remove(name)
        self._file.seek(self._start + self._offsets[name])
        np.ascontiguousarray(array).tofile(self._file)

    def __exit__(self, kind, value, traceback) -> None:
        try:
            if kind is None and self._left:
                raise ValueError(f"tensors never written: {sorted(self._left)}")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if kind is None:
                os.replace(self._temporary, self.path)
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)


def _dtype_name(code: str) -> str:
    return DTYPES[code].name if code in DTYPES else code
