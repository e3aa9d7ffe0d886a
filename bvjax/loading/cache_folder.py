"""The folder that keeps text states and file hashes between runs: where it is, and file hashes."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable

from absl import logging

from bvjax.files import read_json, sha256_of, write_atomic

VARIABLE = "BVJAX_TEXT_CACHE"
RACY_SECONDS = 2.0  # a file changed so recently may change again within one tick of its clock
LARGE = 2**30  # bytes; hashing more is announced


def cache_folder() -> pathlib.Path | None:
    """`$BVJAX_TEXT_CACHE` ("off": None), else `$XDG_CACHE_HOME/bvjax/text` or `~/.cache/...`."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen == "off":
        return None
    if chosen:
        return pathlib.Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "bvjax" / "text"


def save_quietly(path: pathlib.Path, content: bytes) -> None:
    """Writes a file of the cache whole or, with a warning, not at all: the run goes on without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        logging.log_first_n(  # a line for each caption would not say more
            logging.WARNING,
            "cannot keep %s and others (%s); set %s to another folder or to off",
            1,
            path,
            error.strerror or error,
            VARIABLE,
        )


def file_sha256(
    path: pathlib.Path,
    folder: pathlib.Path | None,
    check: Callable[[pathlib.Path], None] | None = None,
) -> str:
    """SHA-256 of a file, in hexadecimal; kept in `folder` until the file changes.

    A file counts as unchanged while its size, its times of change and its place on the disk are
    the same.  Files changed within the last seconds are hashed every time.

    `check` raises for a file that is no good; a file that it has let pass is looked at again only
    when it changes.
    """
    given_path, path = path, pathlib.Path(path).resolve()
    stat = path.stat()
    if folder is None:
        if check is not None:
            check(given_path)
        return sha256_of(path)
    name = hashlib.sha256(str(path).encode()).hexdigest()[:32]
    record = folder / "files" / f"{name}.json"
    state = [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    try:
        stored = read_json(record)
        if stored["state"] == state and (check is None or stored["checked"]):
            return str(stored["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet, or damaged: made again
    if stat.st_size > LARGE:
        logging.info(
            "hashing %s, %.0f GB (once, if the hash can be kept)", path, stat.st_size / 1e9
        )
    if check is not None:
        check(given_path)
    digest = sha256_of(path)
    if time.time() - max(stat.st_mtime, stat.st_ctime) > RACY_SECONDS:
        content = {"state": state, "sha256": digest, "checked": check is not None}
        save_quietly(record, json.dumps(content).encode())
    return digest
