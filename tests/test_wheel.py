"""The wheel: what is in it, and that it makes a video where nothing else of the repository is."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(*command, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel_generates_from_an_empty_folder(tmp_path):
    source = tmp_path / "source"  # so that no leftover of an earlier build gets in
    for folder in ("bvjax", "data_pipelines", "kernels_pallas", "experiments", "tests"):
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("bvjax-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "bvjax",
        "data_pipelines",
        "kernels_pallas",
    }
    assert "bvjax/assets/mini/dit.safetensors" in names

    site, empty = tmp_path / "site", tmp_path / "empty"
    run(*pip, "install", "--no-deps", "--target", site, wheel)
    assert (site / "bin/bvjax").exists()
    empty.mkdir()
    (empty / "story.json").write_text(
        '["A red fox named Pip sits in a meadow in the morning."]', encoding="utf-8"
    )
    env = {**os.environ, "PYTHONPATH": str(site)}
    where = run(sys.executable, "-c", "import bvjax; print(bvjax.__file__)", cwd=empty, env=env)
    assert pathlib.Path(where.strip()).is_relative_to(site)
    run(
        sys.executable, "-m", "bvjax", "generate", "--story", "story.json", "--out", "out",
        "--set", "sampler.steps=2", cwd=empty, env=env,
    )  # fmt: skip
    assert (empty / "out/video.mp4").stat().st_size > 1000
