"""Checkpoints of a LoRA: without the DiT, whose hash decides whether a run goes on."""

import dataclasses
import re
import shutil

import jax
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.nets import dit
from bvjax.train.checkpoint import Checkpoints
from bvjax.train.config import OneModelConfig
from bvjax.train.frozen import hash_of
from bvjax.train.loop import fit
from bvjax.train.lora import LoraConfig
from bvjax.train.lora_task import LoraTask
from bvjax.train.optimizer import OptimizerConfig
from data_pipelines.counter_source import IndexedBatches
from tests.bvjax.train.test_lora_task import TARGETS, Pull

STEPS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Distance(Pull):
    """`Pull`, with parameters of its own where none are given."""

    def init(self, key):
        return dit.init_params(self.model.dit, self.model.text.dim, key)


def make_task(tiny, steps=STEPS):
    config = OneModelConfig(
        steps=steps,
        global_batch_size=2,
        device_batch_size=1,
        sample_every=0,
        checkpoint_every=1,
        keep=3,
    )
    lora = LoraConfig(rank=2, targets=TARGETS)
    return LoraTask(Distance(tiny.model), OptimizerConfig(lr=0.05), config, lora=lora)


def run(tiny, workdir, params, **options):
    task = make_task(tiny, **options)
    data = IndexedBatches(lambda i: {"x": np.zeros((2, 1), np.float32)})
    return fit(task, data, task.config, workdir, lambda: params).state


@pytest.fixture(scope="module")
def stopped(tiny, tmp_path_factory):
    """(folder of a run of three steps whose last two checkpoints are gone, its state)."""
    path = tmp_path_factory.mktemp("lora") / "run"
    state = run(tiny, path, tiny.params["dit"])
    for step in (2, 3):
        shutil.rmtree(path / "checkpoints" / str(step))
    return path, state


def size(folder):
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_the_dit_is_not_in_them(stopped, tiny):
    path, state = stopped
    whole = sum(x.nbytes for x in jax.tree.leaves(tiny.params["dit"]))
    factors = sum(x.nbytes for x in jax.tree.leaves((state.params, state.ema, state.opt_state)))
    assert factors < size(path / "checkpoints" / "1" / "state") < factors + whole / 2
    names = [p.name for p in (path / "checkpoints" / "1" / "state").iterdir()]
    assert not any(re.search("base", name) for name in names)


def test_a_run_goes_on_to_the_same_factors(stopped, tiny, tmp_path):
    path, want = stopped
    shutil.copytree(path, tmp_path / "run")
    got = run(tiny, tmp_path / "run", tiny.params["dit"])
    jax.tree.map(np.testing.assert_array_equal, got, want)
    jax.tree.map(np.testing.assert_array_equal, got.base, tiny.params["dit"])


def test_another_dit_is_refused(stopped, tiny, tmp_path):
    path, _ = stopped
    shutil.copytree(path, tmp_path / "run")
    before = size(tmp_path / "run")
    other = jax.tree.map(np.array, tiny.params["dit"])
    bias = other["blocks"]["self_attn"]["q"]["bias"]
    bias[0, 0] = np.nextafter(bias[0, 0], 1, dtype=bias.dtype)  # of one value the last bit
    with pytest.raises(UserError, match="`init_from` are not those that this run began with"):
        run(tiny, tmp_path / "run", other)
    assert size(tmp_path / "run") == before


def test_checkpoints_that_hold_the_dit_are_read(tiny, tmp_path):
    """As runs wrote them before: what they hold is what goes on."""
    task, params = make_task(tiny, 1), tiny.params["dit"]
    state = jax.jit(task.train_step)(
        task.init_state(0, params), {"x": np.zeros((2, 1), np.float32)}
    )[0]
    old = Checkpoints(tmp_path / "checkpoints", keep=1)
    old.save(1, state, 1)
    old.close()
    got = run(tiny, tmp_path, None, steps=1)
    jax.tree.map(np.testing.assert_array_equal, got, state)


def test_a_hash_is_of_names_shapes_and_values(tiny):
    params = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    same = {"a": {"kernel": jax.numpy.arange(6.0).reshape(2, 3)}}
    others = [
        {"b": params["a"]}, {"a": {"kernel": params["a"]["kernel"].reshape(3, 2)}},
        {"a": {"kernel": params["a"]["kernel"].astype(np.float16)}},
        {"a": {"kernel": -params["a"]["kernel"]}},
    ]  # fmt: skip
    assert hash_of(same) == hash_of(params)
    assert len({hash_of(tree) for tree in (params, *others)}) == 5
