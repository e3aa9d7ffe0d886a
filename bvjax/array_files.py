"""Arrays in .npy and .npz files, read as if a stranger had written them.

Nothing here believes a file: sizes are compared before memory is taken for them.
"""

from __future__ import annotations

import io
import math
import pathlib
import zipfile

import numpy as np

from bvjax.errors import UserError
from bvjax.files import reason


def read_npy(content: bytes, name: str) -> np.ndarray:
    """The array in the bytes of an .npy file, not to be written to.

    Raises `UserError`, beginning with `name`, for what is not one, or is one of Python objects or in
    Fortran's order.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(file)
    except Exception as error:  # NumPy raises half a dozen kinds for damaged headers
        raise UserError(f"{name} is not an array: {first_line(error)}") from None
    if dtype.hasobject or fortran or dtype.itemsize == 0:
        raise UserError(f"{name} is an array of a kind that is never written here: {dtype}")
    size = len(content) - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
        raise UserError(f"{name} does not have the {list(shape)} values that it says")
    return np.ndarray(shape, dtype, content, offset=file.tell())


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file that is not compressed: those that are could be of any size.

    Raises `UserError` for what is not one, `FileNotFoundError` when there is none.
    """
    return _read_zip(path, str(path))


def read_npz_bytes(content: bytes, name: str) -> dict[str, np.ndarray]:
    """`read_npz` of the bytes of a file; `UserError` names it by `name`."""
    return _read_zip(io.BytesIO(content), name)


def _read_zip(source: pathlib.Path | io.BytesIO, name: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(source) as file:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist()):
                raise UserError(f"{name} has compressed arrays")
            entries = {entry.filename: file.read(entry) for entry in file.infolist()}
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # zipfile raises half a dozen kinds for damaged files
        raise UserError(f"{name} is damaged: {first_line(error)}") from None
    return {
        entry.removesuffix(".npy"): read_npy(content, f"{entry} in {name}")
        for entry, content in entries.items()
    }


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or its type where it has none."""
    return reason(error).partition("\n")[0] or type(error).__name__
