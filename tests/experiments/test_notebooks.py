"""The notebooks run from top to bottom, short, in a kernel of their own, and are what the repository says they are."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tomllib

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "notebooks"
SHORT = {
    "1_sample": "CHUNKS, SEED = 2, 0",
    "2_memory": "CHUNKS, CHUNK = 2, 2",
    "3_prompts": "CHUNKS = 2",
    "4_policies": 'CHUNKS, POLICIES = 2, ["blockvid", "rolling"]',
    "5_drift": "CHUNKS = 2",
    "7_finetune": "UPDATES, CHUNKS = 2, 2",
    "8_report": "CHUNKS = 2",
}
WITH_TORCH = "6_pytorch"  # tests/torch/test_notebook.py


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def tagged(notebook: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]


def execute(name: str, parameters: str, folder: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook after it has run in `folder` with other parameters."""
    notebook = read(name)
    (cell,) = tagged(notebook, "parameters")
    cell.source = parameters
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def test_all_notebooks_are_tested_and_light():
    names = {path.stem for path in FOLDER.glob("*.ipynb")}
    assert names == {*SHORT, WITH_TORCH}
    for name in names:
        notebook = read(name)
        nbformat.validate(notebook)
        assert len(tagged(notebook, "parameters")) == 1
        assert (FOLDER / f"{name}.ipynb").stat().st_size < 700_000


def test_the_cell_that_installs_is_one_and_has_the_repository_s_address():
    """It is set in pyproject.toml; a notebook alone on a machine cannot read that, so each has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cells = {
        tagged(read(path.stem), "install")[0].source for path in sorted(FOLDER.glob("*.ipynb"))
    }
    (cell,) = cells
    assert f'"{project["urls"]["Repository"]}"' in cell


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHORT))
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    done = execute(name, SHORT[name], tmp_path)
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    said = json.dumps(outputs)
    assert '"error"' not in said and ("image/png" in said or "text/html" in said)


@pytest.mark.long
def test_the_cell_installs_in_an_empty_environment(tmp_path):
    """From a clone of this repository, in an environment with nothing in it (needs the package index)."""
    clone = tmp_path / "repository"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    (cell,) = tagged(read("1_sample"), "install")
    script = tmp_path / "cell.py"
    script.write_text(
        cell.source + "\nimport bvjax\nprint(bvjax.load('mini').model.name)\n", encoding="utf-8"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", script],
        cwd=tmp_path, env=env | {"BVJAX_REPOSITORY": str(clone)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("mini")
