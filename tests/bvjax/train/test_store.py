"""Training whose folder is in a bucket: the numbers of a run on the disk, through restarts and damage."""

from __future__ import annotations

import csv
import shutil

import jax
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.stores import as_path, local_copy
from bvjax.train.checkpoint import COMMITTED, restore_newest, steps_of
from tests.bvjax.train.test_checkpoint import train
from tests.support import bucket

RUN = as_path("gs://bucket/run")
WALL_TIME = {"steps_per_second", "examples_per_second", "wall_seconds", "goodput"}


def fit(steps: int, kept: tuple[str, ...] = ("metrics.csv",)):
    with local_copy(RUN, kept) as run:
        return train(run, steps, extend=True)


def rows(text: str) -> list[dict[str, str]]:
    """The table without what a clock says."""
    measured = lambda name: name in WALL_TIME or name.startswith(("share_", "gflops", "tflops"))
    return [
        {name: value for name, value in row.items() if not measured(name)}
        for row in csv.DictReader(text.splitlines())
    ]


@pytest.fixture
def there(tmp_path, monkeypatch):
    """The folder of the disk that stands for `RUN`."""
    bucket.install(tmp_path / "store", monkeypatch)
    return tmp_path / "store" / "bucket" / "run"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    train(folder, 4)
    return folder, train(folder, 6, extend=True)


def test_a_run_goes_on_with_the_numbers_of_one_on_the_disk(there, local):
    fit(4)
    assert steps_of(RUN / "checkpoints") == [4, 2]
    # A crash: a checkpoint that Orbax has not finished, and rows after the last one that is whole.
    shutil.copytree(there / "checkpoints" / "4", there / "checkpoints" / "5")
    (there / "checkpoints" / "5" / COMMITTED).unlink()
    table = (there / "metrics.csv").read_text()
    (there / "metrics.csv").write_text(table + table.splitlines()[-1].replace("4", "5", 1) + "\n")
    assert steps_of(RUN / "checkpoints") == [4, 2]

    state = fit(6).state
    assert steps_of(RUN / "checkpoints") == [6, 4, 2]
    jax.tree.map(np.testing.assert_array_equal, state, local[1].state)
    assert rows((there / "metrics.csv").read_text()) == rows((local[0] / "metrics.csv").read_text())
    assert list(there.glob("events.*")) and not list(there.glob("*.tmp"))


@pytest.mark.parametrize("how", ["cut", "lost"])
def test_a_damaged_checkpoint_is_set_aside(there, local, caplog, how):
    fit(4)
    path = max((there / "checkpoints/4/state").glob("**/d/*"), key=lambda p: p.stat().st_size)
    path.unlink() if how == "lost" else path.write_bytes(path.read_bytes()[:-1])
    state = fit(6).state
    reason = "is missing" if how == "lost" else "is not what was written"
    assert f"checkpoint {RUN}/checkpoints/4 is damaged" in caplog.text and reason in caplog.text
    assert "going on from step 2" in caplog.text
    assert steps_of(RUN / "checkpoints") == [6, 4, 2]
    assert (there / "checkpoints/4.damaged/state").is_dir()
    jax.tree.map(np.testing.assert_array_equal, state, local[1].state)


def test_when_none_is_intact_the_bucket_is_named(there, local):
    fit(2)
    (there / "checkpoints/2/data/metadata").unlink()
    with pytest.raises(UserError, match=f"no checkpoint in {RUN}/checkpoints is intact"):
        restore_newest(RUN / "checkpoints", local[1].state)
