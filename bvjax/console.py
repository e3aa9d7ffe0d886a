"""Exit codes, logging and messages at the terminal, shared by all commands."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from bvjax import machine
from bvjax.errors import UserError, WorkError
from bvjax.files import DISK_FULL
from bvjax.plain_text import shown
from bvjax.stores import AnyPath, as_path, check_folder, is_store

AGAIN = "what is finished is kept, the same command again goes on"  # for `going_on`
BROKEN_PIPE = 141  # what a shell reports of a command that nobody reads any more
_PARAMETER = re.compile(r"`([A-Za-z_]\w*)`")
# What is not the parameter's name with hyphens: an option for each item, arguments without a name.
_OPTIONS = {
    "overrides": "--set",
    "captions": "--caption",
    "loras": "--lora",
    "src": "SRC",
    "dst": "DST",
}


def run(command: Callable[[], int | None], name: str = "bvjax") -> int:
    """Runs a command and returns its exit code; whatever a user can get wrong is one sentence.

    2 for bad input and for files that cannot be used, 1 for work that failed and when the disk is
    full, 130 when stopped by Ctrl-C, `BROKEN_PIPE` when its output is a pipe that nobody reads;
    else what `command` returns, None being 0.

    Args:
        name: the sentences begin with it.
    """
    _encode_anything()
    try:
        code = command() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        return say(f"{name}: {as_options(str(error))}", 2)
    except WorkError as error:
        return say(f"{name}: {as_options(str(error))}", 1)
    except (MemoryError, RuntimeError, AssertionError) as error:
        translated = machine.translated(error)
        if translated is None:
            raise
        return say(f"{name}: {translated}", 1 if isinstance(translated, WorkError) else 2)
    except ModuleNotFoundError as error:
        from bvjax.extras import extra_of

        extra = extra_of((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return say(
            f"{name}: this command needs {error.name}; install it with pip install 'bvjax[{extra}]'",
            2,
        )
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:
        if error.errno in DISK_FULL:
            return say(f"{name}: no space left on the disk{_notes(error) or '; free some'}", 1)
        return say(f"{name}: {os_sentence(error)}", 2)
    except KeyboardInterrupt as error:
        return say(f"\n{name}: stopped{_notes(error)}", 130)


def run_flags(main: Callable[[list[str]], int | None]) -> None:
    """`run` of a command whose options are absl's flags; ends the process."""
    from absl import app, flags

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        # ml_collections lets pass whatever a key or a value of a config meets.
        except (SyntaxError, ImportError) as error:  # of a config file, which is Python
            sys.exit(say(f"error: cannot read the config: {error}", 2))
        except (flags.Error, LookupError, AttributeError, ValueError, TypeError, OSError) as error:
            message = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
            head, traceback, rest = message.partition("Traceback (most recent call last)")
            message = head + rest.strip().splitlines()[-1] if traceback else message
            sys.exit(say(f"error: {' '.join(message.split())}", 2))

    app.run(lambda argv: run(lambda: main(argv), "error"), flags_parser=parse)


def as_options(message: str) -> str:
    """A message of the library with the command line's options for its parameters.

    "`video_chunks` is 9" becomes "--video-chunks is 9".
    """

    def option(match: re.Match[str]) -> str:
        return _OPTIONS.get(match[1], f"--{match[1].replace('_', '-')}")

    return _PARAMETER.sub(option, message)


def path(text: str) -> Path:
    """A path that was given to a command; raises `UserError` for text that names nothing."""
    if not text.strip() or "\0" in text:
        raise UserError(f"{text!r} is not the name of a file or a folder")
    return Path(text)


def folder(text: str, name: str) -> AnyPath:
    """A folder that was given to a command as `name`, on a disk or in Google Cloud Storage; raises `UserError`."""
    check_folder(text, name)
    return as_path(text) if is_store(text) else path(text)


def os_sentence(error: OSError) -> str:
    """Returns one sentence: what the system refused, and for which file."""
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return f"cannot use {' and '.join(files)}: {reason}" if files else reason


def set_up() -> None:
    """Plain log lines, and compiled programs kept between runs."""
    import absl.logging

    from bvjax import compilation

    absl.logging.set_verbosity(absl.logging.INFO)
    logger = logging.getLogger("absl")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        handler = _Stderr()
        handler.setFormatter(_Plain("%(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    for library in ("jax", "matplotlib", "PIL"):
        logging.getLogger(library).setLevel(logging.ERROR)
    if not sys.warnoptions:  # what libraries tell those who program with them
        warnings.simplefilter("ignore")
    compilation.keep_programs()


@contextlib.contextmanager
def going_on(how: str) -> Iterator[None]:
    """Adds `how`, the way to resume the work, to the message of a Ctrl-C or a full disk inside."""
    try:
        yield
    except (KeyboardInterrupt, OSError) as error:
        if isinstance(error, KeyboardInterrupt) or error.errno in DISK_FULL:
            error.add_note(how)
        raise


def say(text: str, code: int = 0) -> int:
    """Lines on stderr, with nothing in them that steers the terminal; returns `code`."""
    with contextlib.suppress(BrokenPipeError):
        print(_plain(text), file=sys.stderr)
    return code


def tell(text: str) -> None:
    """Lines on stdout, with nothing in them that steers the terminal."""
    print(_plain(text), flush=True)


def on_terminal() -> bool:
    """Returns True if stderr is a terminal, which shows a progress bar; a log gets lines instead."""
    return sys.stderr.isatty()


def _notes(error: BaseException) -> str:
    """Returns the notes that `going_on` added to an error, to be appended to its message."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()))


def _plain(text: str) -> str:
    return "\n".join(map(shown, text.split("\n")))


def _encode_anything() -> None:
    """Characters that the terminal does not have, and names that are no text, are escaped."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Lets Python end without a word about the pipe."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _plain(super().format(record))


class _Stderr(logging.StreamHandler):
    """Writes to what `sys.stderr` is when something is logged: it may have been replaced."""

    def __init__(self):
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr
