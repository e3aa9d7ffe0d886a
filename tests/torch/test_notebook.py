"""The notebook about PyTorch runs, and both decoders draw the same picture."""

from __future__ import annotations

import re

from tests.experiments.test_notebooks import WITH_TORCH, execute


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    done = execute(WITH_TORCH, "STEPS, SEED = 4, 0", tmp_path)
    said = "".join(
        output.get("text", "") for cell in done.cells for output in cell.get("outputs", ())
    )
    (error,) = re.findall(r"largest difference of a pixel: ([\d.e-]+)", said)
    assert float(error) < 1e-3
