"""Commands that docstrings, error texts and pages tell people to run are commands that there are."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = (
    "bvjax",
    "kernels_pallas",
    "data_pipelines",
    "experiments",
    "README.md",
    "CONTRIBUTING.md",
    "docs",
)
COMMAND = re.compile(
    r"python -m ((?:bvjax|kernels_pallas|data_pipelines|experiments)\b[\w.]*)([^\"'`;()\n]*(?:\\\\?\n[^\"'`;()\n]*)*)"
)


def commands() -> dict[str, set[str]]:
    """{module: options} of every command that is written down anywhere."""
    found: dict[str, set[str]] = {}
    for place in PLACES:
        path = ROOT / place
        files = [path] if path.is_file() else [*path.rglob("*.py"), *path.rglob("*.md")]
        for file in files:
            # A string that goes on in the next line of the code is one text.
            text = re.sub(r'"\n\s+f?"', "", file.read_text(encoding="utf-8"))
            for module, rest in COMMAND.findall(text):
                if module.rpartition(".")[2].isupper():  # NAME, which stands for one
                    continue
                found.setdefault(module.rstrip("."), set()).update(re.findall(r"--([\w-]+)", rest))
    return found


@pytest.mark.parametrize("module", sorted(commands()))
def test_every_command_that_is_named_is_there_and_has_the_options(module):
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    path = Path(spec.origin)
    if path.name == "__init__.py":
        path = path.with_name("__main__.py")
    source = path.read_text(encoding="utf-8")
    assert 'if __name__ == "__main__":' in source, f"{module} is not a command"
    if module.startswith("experiments.benchmarks."):  # they share some
        source += (path.parent / "options.py").read_text(encoding="utf-8")
    if module == "bvjax":  # its subcommands are tested with it
        return
    for option in commands()[module] - {"config", "help"}:
        forms = [f'"{option}"', f'"--{option}"']
        if "add_folders(" in source:  # whose keywords are options
            forms.append(f" {option}=")
        assert any(form in source for form in forms), f"{module} has no --{option}"


def test_commands_are_found():
    found = commands()
    assert "bvjax" in found and {"chunks"} <= found["data_pipelines.lvbench.encode"]
    assert {"weights", "out", "split"} <= found["data_pipelines.storyworld.encode"]
    assert {"config", "workdir", "init-from"} <= found["experiments.train"]
