"""Writing files so that a crash never leaves half of one behind; their hashes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from bvjax.errors import UserError


def write_atomic(path: Path, content: bytes) -> None:
    """Writes through a temporary file beside `path`: afterwards it is the old file or the new one.

    Temporary names begin with a dot and end with .tmp, so that no reader takes them for results.
    """
    path = Path(path)
    # Machines that share a disk may have equal process numbers.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """`write_atomic` of indented JSON in ASCII, which reads the same under every locale."""
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())


def parse_json(text: str, where: str) -> Any:
    """JSON out of a person's file; raises `UserError` that starts with `where` and says the place."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; memory does not grow with its size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
