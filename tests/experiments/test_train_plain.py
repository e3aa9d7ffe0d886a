"""Training where there is little beside JAX: what is imported, and what the command's words mean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bvjax.errors import UserError
from experiments.configs import mini_pictures, small_pictures, small_returns
from experiments.train_plain import load_experiment

CONFIGS = Path("experiments/configs")
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import experiments.export, experiments.train_plain
from experiments.data_sets import LOADERS
from pathlib import Path
print(experiments.train_plain.load_experiment(Path({config!r}), []).task)
"""


def test_neither_ml_collections_nor_grain_is_imported():
    names = ("ml_collections", "grain", "tensorflow_datasets", "av", "diffusers", "tensorboardX")
    code = BLOCKED.format(names=names, config=str(CONFIGS / "small_returns.py"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["dit"], done.stderr[-2000:]


def test_a_config_file_with_assignments_is_an_experiment():
    loaded = load_experiment(CONFIGS / "mini_pictures.py", ["train.steps=7", "data.workers=3"])
    base = mini_pictures.experiment()
    assert loaded.train.steps == 7 and loaded.data.workers == 3
    assert loaded.model == base.model and loaded.optimizer == base.optimizer
    with pytest.raises(UserError, match="there is no config nowhere.py"):
        load_experiment(Path("nowhere.py"), [])
    with pytest.raises(UserError, match="no configuration key 'train.step'"):
        load_experiment(CONFIGS / "mini_pictures.py", ["train.step=7"])


def test_both_stages_of_small_are_one_network():
    first, second = small_pictures.experiment(), small_returns.experiment()
    assert first.model == second.model and first.model.dit.patch == (1, 1, 1)
    assert second.data.name == "returns" and second.data.pictures == first.data.pictures
