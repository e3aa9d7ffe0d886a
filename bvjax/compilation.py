"""Compiled programs: where they are kept between runs, and a word when one has to be made."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import platform
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator

import jax

VARIABLE = "JAX_COMPILATION_CACHE_DIR"  # JAX's own; it is obeyed
# Programs worth a word, by the name of the function; helpers of a few operations are not.
PROGRAMS = {
    "anchor_step": "the first frame's step",
    "denoise": "the chunk step",
    "commit": "the memory write",
    "rollout": "the whole video",
    "decode": "the decoder",
    "encode": "the encoder",
    "train_step": "the training step",
}
_MISS = re.compile(r"PERSISTENT COMPILATION CACHE MISS for '(?:jit_)?_*(\w+?)_*'")


def cache_folder() -> str:
    """The folder in which compiled programs are kept.

    `$JAX_COMPILATION_CACHE_DIR`, else `bvjax/xla-<kind of processor>` under `$XDG_CACHE_HOME` or
    `~/.cache`.  The kind is in the name because what LLVM made for one CPU may not run on another.
    """
    if chosen := os.environ.get(VARIABLE):
        return chosen
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return str(pathlib.Path(base) / "bvjax" / f"xla-{_processor()}")


def keep_programs() -> str:
    """Turns JAX's persistent compilation cache on in `cache_folder()`, which it returns."""
    folder = cache_folder()
    jax.config.update("jax_compilation_cache_dir", folder)
    return folder


def can_keep(folder: str) -> bool:
    """Returns True if programs can be written into `folder`, which is made if it is not there."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def announced(say: Callable[[str], None], target: str) -> Iterator[None]:
    """Says which program is being compiled, before it is, where none is kept of earlier runs.

    Args:
        say: gets a line of text.
        target: what the programs are compiled for: sizes and devices.
    """
    # JAX tells of a miss in a debug line of its compiler, and nowhere else before it compiles.
    logger, handler = logging.getLogger("jax._src.compiler"), _Misses(say, target)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _Misses(logging.Handler):
    """Turns JAX's line about a program that is not in the cache into a sentence."""

    def __init__(self, say: Callable[[str], None], target: str):
        super().__init__(logging.DEBUG)
        self._say, self._target = say, target

    def emit(self, record: logging.LogRecord) -> None:
        miss = _MISS.match(record.getMessage())
        if miss is None:
            parent = logging.getLogger("jax")
            if record.levelno >= parent.getEffectiveLevel():
                parent.handle(record)
        elif program := PROGRAMS.get(miss[1]):
            folder = jax.config.jax_compilation_cache_dir
            cache_note = (
                f"kept in {folder}" if can_keep(folder) else f"not kept: {folder} cannot be written"
            )
            self._say(
                f"compiling {program} for {self._target} (first run with these sizes and versions; {cache_note})"
            )


def _processor() -> str:
    """A mark of this kind of CPU: programs compiled for another may not run on it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    kind = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return f"{zlib.crc32(repr(kind).encode()):08x}"
