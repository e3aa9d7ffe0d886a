"""A command whose optional packages are missing says which extra brings them."""

from __future__ import annotations

import pytest

from bvjax import cli, cli_evaluate
from bvjax.extras import extra_of


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("cv2", "lvbench"),
        ("orbax", "train"),
        ("tensorflow_datasets", "train"),
        ("torch", "torch"),
        ("jax", None),
        ("no_such_module", None),
    ],
)
def test_extra_of_a_module(module, extra):
    assert extra_of(module) == extra


def test_missing_package_names_the_extra(monkeypatch, capsys):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'cv2'", name="cv2")

    monkeypatch.setattr(cli_evaluate, "_evaluate", missing)
    assert cli.main(["evaluate", "--videos", "x", "--out", "y"]) == 2
    assert "pip install 'bvjax[lvbench]'" in capsys.readouterr().err
