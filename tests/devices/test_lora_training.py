"""Steps of a LoRA's training on a mesh of eight devices are those of one device."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from bvjax.losses.teacher_forcing import ForcingConfig
from bvjax.sharding import ONE_DEVICE
from bvjax.train.config import OneModelConfig
from bvjax.train.lora import LoraConfig
from bvjax.train.lora_task import LoraTask
from bvjax.train.mesh import batch_sharding
from bvjax.train.optimizer import OptimizerConfig
from tests.devices.test_training import STORIES, layout_of, make_batch, make_task

pytestmark = pytest.mark.slow
MESHES = [dict(data=2, fsdp=2, context=2), dict(data=2, fsdp=2, tensor=2)]


def two_steps(tiny, layout):
    """(state, metrics of both steps); the DiT is the one of `tiny`, factors are drawn."""
    task = LoraTask(
        make_task(tiny, forcing=ForcingConfig(frames=4), layout=layout),
        OptimizerConfig(lr=0.01, warmup_steps=0, weight_decay=0.0),
        OneModelConfig(
            steps=4,
            global_batch_size=STORIES,
            device_batch_size=STORIES // layout.size("data"),
            ema_decay=0.5,
        ),
        layout,
        lora=LoraConfig(rank=2, alpha=3.0),
    )
    state = task.init_state(0, tiny.params["dit"])
    # Beyond the first step's `up` of zeros, where gradients of `down` are zeros too.
    rng = np.random.default_rng(1)
    factors = jax.tree.map(
        lambda x: rng.normal(0.0, 0.05, x.shape).astype(np.float32), state.params
    )
    state = dataclasses.replace(state, params=factors, ema=factors)
    where = task.shardings(state)
    step = jax.jit(
        task.train_step,
        in_shardings=(where, batch_sharding(layout)),
        out_shardings=(where, None),
    )
    state, seen = jax.device_put(state, where), []
    for number in range(2):
        state, metrics = step(state, make_batch(task.objective.model, number))
        seen.append(jax.device_get(metrics))
    return state, seen


@pytest.fixture(scope="module")
def on_one(tiny):
    return two_steps(tiny, ONE_DEVICE)


@pytest.mark.parametrize("sizes", MESHES, ids=["context", "tensor"])
def test_steps_on_a_mesh_are_those_of_one_device(tiny, on_one, sizes):
    layout = layout_of(sizes)
    assert layout.mesh.size == 8
    want, metrics = on_one
    got, same = two_steps(tiny, layout)
    for a, b in zip(same, metrics, strict=True):
        for name, value in b.items():
            np.testing.assert_allclose(a[name], value, rtol=2e-5, err_msg=name)
    moved = 0.0
    for name in ("params", "ema", "opt_state"):
        pairs = zip(
            jax.tree_util.tree_leaves_with_path(getattr(got, name)),
            jax.tree.leaves(getattr(want, name)),
            strict=True,
        )
        for (path, a), b in pairs:
            key = name + jax.tree_util.keystr(path)
            largest = float(np.abs(b).max())
            # A moment divided by another is as exact as the gradients are, a part in 1e5 of the largest.
            np.testing.assert_allclose(a, b, atol=2e-4 * largest, rtol=0, err_msg=key)
            if name == "opt_state" and np.ndim(b):
                moved = max(moved, largest)
                assert largest > 0, key
    assert moved > 1e-4
    jax.tree.map(np.testing.assert_array_equal, got.base, tiny.params["dit"])
    kernel = got.base["blocks"]["self_attn"]["q"]["kernel"]
    assert kernel.addressable_shards[0].data.size * layout.size("fsdp", "tensor") == kernel.size
