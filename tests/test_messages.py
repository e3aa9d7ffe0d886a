"""Errors of the library speak of parameters, and each of these is an option of a command."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

from bvjax import console

ROOT = pathlib.Path(__file__).parents[1]
FILES = [
    path
    for package in ("bvjax", "kernels_pallas", "data_pipelines", "experiments")
    for path in sorted((ROOT / package).rglob("*.py"))
]
# A whole command is no option: "python -m data_pipelines.storyworld.encode --out X".
COMMAND = re.compile(r"python -m \S+[^;']*")


def texts(node: ast.AST) -> Iterator[str]:
    """The strings below a node."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def messages(path: pathlib.Path) -> Iterator[str]:
    """What the errors that a module raises say."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "UserError",
            "WorkError",
        ):
            yield "".join(text for argument in node.args for text in texts(argument))


def is_command(path: pathlib.Path) -> bool:
    """Whether a module has options of its own to speak of."""
    words = re.findall(r"argparse|flags\.DEFINE", path.read_text(encoding="utf-8"))
    return bool(words) or "benchmarks" in path.parts


def test_the_library_names_no_options():
    named = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in FILES
        if not is_command(path)
        for text in messages(path)
        if re.search(r"(?<![\w-])--[a-z]", COMMAND.sub("", text))
    }
    assert not named


def test_every_parameter_that_is_named_is_an_option():
    options = set()
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        options |= set(re.findall(r'"(--[a-z-]+)"', source))
        options |= {
            f"--{name}" for name in re.findall(r'flags\.DEFINE_\w+\(\s*"([a-z-]+)"', source)
        }
    named = {
        name for path in FILES for text in messages(path) for name in re.findall(r"`\w+`", text)
    }
    assert {"`video_chunks`", "`init_from`", "`out`"} <= named
    assert {console.as_options(name) for name in named} <= options
