"""README.md as a script: its commands are run in order, or compared with --help where that takes hours."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from data_pipelines.storyworld.words import word_list

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Of these only the flags are looked up: what they begin with, and why they are not run.
NOT_RUN = {
    "python -m bvjax convert ~/": "published weights",
    "python -m bvjax generate --weights": "published weights, or those of hours of training",
    "python -m bvjax plan": "compilers for accelerators",
    "python -m data_pipelines.storyworld --preview": "a minute at 256x256, tested in small",
    "python -m data_pipelines.storyworld.cache": "hours",
    "python -m data_pipelines.storyworld.encode": "hours",
    "python -m experiments.train": "hours",
}


def blocks(language: str = "") -> list[str]:
    """The fenced blocks in a language; those without one are commands."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def commands() -> list[str]:
    """Commands of the fenced blocks in order, without comments, prompts of one Python for all."""
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks() for line in block.splitlines()]
    return [re.sub(r"^\.venv[-a-z]*/bin/python", "python", line) for line in lines if line.strip()]


def is_run(command: str) -> bool:
    python = command.startswith("python -m") and not command.startswith("python -m pip")
    return python and not any(command.startswith(start) for start in NOT_RUN)


def run(command: list[str], folder: pathlib.Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "BVJAX_TEXT_CACHE": "off"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (
        f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


def test_the_readme_has_both_commands_and_files_that_exist():
    assert {"make demo", "make test"} <= set(commands())
    for command in commands():
        for word in shlex.split(command):
            if re.match(r"(--config=)?(experiments|docs|bvjax)/", word):
                assert (ROOT / word.removeprefix("--config=")).exists(), command
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_word_list_is_the_vocabulary():
    document = (ROOT / "docs" / "storyworld.md").read_text(encoding="utf-8")
    assert word_list() in document


@pytest.mark.slow
def test_the_other_commands_have_their_flags(tmp_path):
    helps: dict[str, str] = {}
    for command in commands():
        if is_run(command) or not command.startswith("python -m") or " pip " in command:
            continue
        words = shlex.split(command)
        program = words[1 : 4 if words[2] == "bvjax" else 3]
        key = " ".join(program)
        if key not in helps:
            ask = "--helpfull" if words[2] == "experiments.train" else "--help"
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                [sys.executable, *program, ask], env=env, capture_output=True, text=True
            )
            helps[key] = done.stdout
        for flag in re.findall(r"(?<= )--[a-z-]+", command):
            assert re.search(rf"{flag}\b|--\[no\]{flag[2:]}\b", helps[key]), (command, flag)


def link_packages(folder: pathlib.Path) -> None:
    for name in ("bvjax", "experiments", "data_pipelines", "kernels_pallas"):
        (folder / name).symlink_to(ROOT / name)


@pytest.mark.slow
def test_the_python_runs(tmp_path):
    (block,) = blocks("python")
    link_packages(tmp_path)
    said = run([sys.executable, "-c", block], tmp_path)
    assert "(97, 64, 64, 3) (25, 8, 8, 32)" in said and "Retrieved(chunk=1" in said
    assert (tmp_path / "runs" / "fox.mp4").stat().st_size > 10_000
    assert (tmp_path / "runs" / "python" / "report.png").exists()
    assert (tmp_path / "runs" / "export" / "transformer" / "config.json").exists()


@pytest.mark.slow
def test_the_commands_run_in_order(tmp_path):
    link_packages(tmp_path)
    demo = subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT), "-n", "demo", "PY=python"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[-1]
    for command in [demo, *filter(is_run, commands())]:
        said = run([sys.executable, *shlex.split(command)[1:]], tmp_path)
        assert said.strip(), f"{command} says nothing"
    runs = tmp_path / "runs"
    for name in ("demo", "mine", "longer", "again"):
        assert (runs / name / "video.mp4").stat().st_size > 10_000
        assert (runs / name / "report.png").exists()
    assert (runs / "mine" / "archive" / "002").is_dir()
    assert (runs / "demo-drift" / "report.html").exists()
