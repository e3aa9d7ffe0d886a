"""`import bvjax`: light, and what it names is there."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tomllib

import pytest

import bvjax

ROOT = pathlib.Path(__file__).parents[2]


def test_importing_it_imports_nothing_heavy():
    code = (
        "import sys; before = set(sys.modules); import bvjax; bvjax.__version__; dir(bvjax); "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= {"bvjax", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", ["UserError", "WorkError"])
def test_light_names_do_not_import_jax(name):
    code = f"import sys, bvjax; bvjax.{name}; print('jax' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_every_name_is_there():
    for name in bvjax.__all__:
        assert callable(getattr(bvjax, name)) or name == "__version__"
        assert name in dir(bvjax)
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        bvjax.lode  # noqa: B018


def test_there_is_one_version():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "bvjax.__version__"
    }


def test_convert_is_a_function(tiny, tmp_path):
    with pytest.raises(bvjax.UserError, match="`to` is 'onnx'; it can be bvjax"):
        bvjax.convert(tiny.weights, tmp_path / "out", "onnx")
    with pytest.raises(bvjax.UserError, match="there is no configuration key 'vae.dimm'"):
        bvjax.convert(tiny.weights, tmp_path / "out", overrides={"vae.dimm": 4})
    model = bvjax.convert(tiny.weights, tmp_path / "out", overrides={"memory.tau": 0.5})
    assert model.memory.tau == 0.5 and (tmp_path / "out" / "dit.safetensors").exists()
    assert bvjax.convert.__name__ == "convert"
