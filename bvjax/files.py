"""Writing files so that a crash never leaves half of one behind."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np


def write_atomic(path: Path, content: bytes) -> None:
    """Writes through a temporary file beside `path`: afterwards it is the old file or the new one.

    Temporary names begin with a dot and end with .tmp, so that no reader takes them for results.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def npy_bytes(array: np.ndarray) -> bytes:
    """The content of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz_bytes(**arrays: np.ndarray) -> bytes:
    """The content of an .npz file, not compressed."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
