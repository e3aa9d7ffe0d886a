"""Files: written so that a crash never leaves half of one behind, JSON read with distrust, hashes."""

from __future__ import annotations

import codecs
import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from bvjax.errors import UserError
from bvjax.stores import AnyPath, as_path, is_store

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
MAX_DEPTH = 100  # lists and objects within each other; the files here have about ten
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1

_TOO_DEEP = f"is nested too deeply: more than {MAX_DEPTH} lists and objects within each other"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def write_atomic(path: AnyPath, content: bytes | memoryview) -> None:
    """Writes through a temporary file beside `path`: afterwards it is the old file or the new one.

    Temporary names begin with a dot and end with .tmp, so that no reader takes them for results. On an object store
    a file is written at once: there it appears when it is whole.
    """
    if is_store(path):
        as_path(path).write_bytes(bytes(content))
        return
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
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


def reason(error: Exception) -> str:
    """Returns what the system, or a library that passes on its error, says went wrong."""
    return getattr(error, "strerror", None) or str(error)


def cannot_write(path: Path, error: Exception, what: str = "") -> Exception:
    """Returns what to raise when `path` cannot be written: `UserError`, or `OSError` when the disk is full.

    A full disk is nothing that the user got wrong, and what was asked can be gone on with.

    Args:
        error: of the system, or of a library that passes on its `errno`.
        what: said before the path, for example "the video".
    """
    code = getattr(error, "errno", None)
    if code in DISK_FULL:
        return OSError(code, reason(error), str(path))
    return UserError(f"cannot write {what or 'to'} {path}: {reason(error)}")


def write_json(path: AnyPath, content: Any) -> None:
    """`write_atomic` of `json_bytes`."""
    write_atomic(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Indented JSON in ASCII, which reads the same under every locale."""
    return (json.dumps(content, indent=2) + "\n").encode()


def read_json(path: str | AnyPath, what: str = "") -> Any:
    """The content of a JSON file, whoever wrote it; see `parse_json`.

    Args:
        what: said before the path in messages, for example "the story".

    Raises:
        UserError: the file is missing, cannot be read, or is not JSON; one sentence naming it.
    """
    return parse_json(read_text(path, what), f"{what} {path}".lstrip())


def read_json_lines(path: str | Path, what: str = "") -> list[tuple[int, Any]]:
    """(line number, content) of the lines of a JSON Lines file that are not empty; see `read_json`."""
    # Not splitlines, which also cuts at U+2028 and others that JSON allows inside text.
    lines = re.split("\r\n|\n|\r", read_text(path, what))
    return [
        (number, parse_json(line, f"{what} {path}, line {number},".lstrip()))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def read_text(path: str | AnyPath, what: str = "") -> str:
    """The text of a file, without its byte-order mark: UTF-8, or UTF-16 where such a mark says so.

    Args:
        what: said before the path in messages, for example "the story".

    Raises:
        UserError: the file is missing, cannot be read, or is not such text.
    """
    where = f"{what} {path}".lstrip()
    try:
        content = as_path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {where}: {reason}") from None
    return _decoded(content, where)


def read_json_object(path: str | AnyPath, what: str = "") -> dict[str, Any]:
    """`read_json` of a file that must hold an object; raises `UserError`."""
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise UserError(f"{what} {path} is not a JSON object".lstrip())
    return content


def parse_json(content: str | bytes, where: str) -> Any:
    """Objects, lists, strings, finite numbers and nothing else out of JSON in UTF-8.

    Raises `UserError` that starts with `where` for text that is not UTF-8 or not JSON, and for what
    Python would take although nothing here can use it: NaN and infinity, whole numbers of more than
    64 bits, half a surrogate pair, more than `MAX_DEPTH` lists and objects within each other.
    """
    try:
        text = _decoded(content, where) if isinstance(content, bytes) else content
        value = json.loads(
            text.removeprefix("\ufeff"),
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_number,
        )
        _check_depth(value)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} has half of a surrogate pair in a string: {error.object[error.start]!a}"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except (_NotTaken, RecursionError) as error:
        reason = str(error) if isinstance(error, _NotTaken) else _TOO_DEEP
        raise UserError(f"{where} {reason}") from None
    return value


def _decoded(content: bytes, where: str) -> str:
    # Windows writes UTF-16 in places, always with its mark.
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not text in UTF-8: byte {error.start} is damaged") from None


class _NotTaken(Exception):
    """JSON that is refused; the message goes on after the name of the file."""


def _integer(text: str) -> int:
    number = int(text) if len(text) <= 20 else MAX_INTEGER + 1
    if not MIN_INTEGER <= number <= MAX_INTEGER:
        raise _NotTaken(f"has a whole number of more than 64 bits: {_short(text)}")
    return number


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NotTaken(f"has a number that is not finite: {_short(text)}")
    return number


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:20]}... ({len(text)} characters)"


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise _NotTaken(_TOO_DEEP)


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
