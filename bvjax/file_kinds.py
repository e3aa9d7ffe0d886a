"""Detection of files that are no weights although they are named so: LFS pointers, GGUF, web pages."""

from __future__ import annotations

from pathlib import Path

from bvjax.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/"
GGUF = b"GGUF"


class OtherFormat(UserError):
    """A file in a format that bvjax does not read."""


def check_kind(path: Path) -> None:
    """Looks at the first bytes of a file of weights.

    Raises:
        UserError: it cannot be read, or is a Git LFS pointer or a web page; `OtherFormat` for GGUF.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(len(POINTER))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}") from None
    if begin == POINTER:
        raise UserError(
            f"{path} is a Git LFS pointer, not the file itself; run 'git lfs pull' there"
        )
    if begin.startswith(GGUF):
        raise OtherFormat(f"{path} is a GGUF file, which bvjax does not read; give safetensors")
    if begin.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path} is a web page, not a file of weights; download it again")
