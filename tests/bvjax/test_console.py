"""Exit codes and sentences that all commands share."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bvjax import console
from bvjax.errors import UserError, WorkError


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("no\x1b[2J good"), 2, "me: no\\u001b[2J good\n"),
        (UserError("`video_chunks` is 9, no `video`"), 2, "me: --video-chunks is 9, no --video\n"),
        (UserError("`overrides` takes a=b"), 2, "me: --set takes a=b\n"),
        (WorkError("another `seed`, not `a b`"), 1, "me: another --seed, not `a b`\n"),
        (
            FileNotFoundError(2, "No such file", "/a\udcff"),
            2,
            "me: cannot use /a\\udcff: No such file\n",
        ),
        (OSError(30, "Read-only", "a", None, "b"), 2, "me: cannot use a and b: Read-only\n"),
        (OSError("several\n  lines"), 2, "me: several lines\n"),
        (OSError(errno.ENOSPC, "full"), 1, "me: no space left on the disk; free some\n"),
        (KeyboardInterrupt(), 130, "\nme: stopped\n"),
    ],
)
def test_what_goes_wrong_is_one_sentence(capsys, error, code, told):
    assert console.run(raising(error), "me") == code
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "\nme: stopped; again goes on\n"),
        (OSError(errno.ENOSPC, "full"), 1, "me: no space left on the disk; again goes on\n"),
        (OSError(30, "Read-only", "a"), 2, "me: cannot use a: Read-only\n"),
    ],
)
def test_how_to_go_on_is_said_where_there_is_something_to_go_on_with(capsys, error, code, told):
    def command():
        with console.going_on("again goes on"):
            raise error

    assert console.run(command, "me") == code
    assert capsys.readouterr().err == told


def test_other_errors_are_faults_of_ours():
    with pytest.raises(ZeroDivisionError):
        console.run(lambda: 1 // 0)
    assert (console.run(lambda: None), console.run(lambda: 1)) == (0, 1)


def test_a_terminal_without_the_characters(monkeypatch):
    """An ASCII locale, or a name that is not UTF-8: escaped instead of a traceback."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert console.run(lambda: console.tell("runs/été \udcff\r\x1b[1m")) == 0
    assert out.buffer.getvalue() == b"runs/\\xe9t\\xe9 \\udcff\\r\\u001b[1m\n"


def test_nobody_reads_the_output():
    code = (
        "from bvjax import console\nimport sys\n"
        "sys.exit(console.run(lambda: [print(i) for i in range(10**6)] and None))"
    )
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run([sys.executable, "-c", code], stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert (done.returncode, done.stderr) == (console.BROKEN_PIPE, b"")


@pytest.mark.parametrize("text", ["", " ", "a\0b"])
def test_a_path_names_something(text):
    with pytest.raises(UserError, match="is not the name of a file or a folder"):
        console.path(text)
    assert console.path("12:30 fox") == Path("12:30 fox")
