"""The task of a few-step generator: a teacher that stays, an average that is aimed at, and its refusals."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import GuidanceConfig, SamplerConfig
from bvjax.errors import UserError
from bvjax.losses.consistency import ConsistencyConfig, ConsistencyDistillation
from bvjax.losses.teacher_forcing import ForcingConfig, TeacherForcing
from bvjax.train.config import OneModelConfig
from bvjax.train.distillation import DistillationObjective, DistillationTask
from bvjax.train.optimizer import OptimizerConfig
from bvjax.weights import load_made


@dataclasses.dataclass(frozen=True)
class Asks:
    """A method that notes what it is given: the loss is the distance to the average, plus the teacher's norm."""

    def loss(self, params, average, teacher, clip, key):
        far = lambda a, b: sum(
            jnp.square(x - y).sum()
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        )
        aim = jax.tree.map(lambda x: x + 1.0, average)
        return far(params, aim), {"teacher": far(params, teacher)}


@pytest.fixture
def task(tiny):
    model = dataclasses.replace(
        tiny.model,
        sampler=SamplerConfig(kind="few_step", steps=4, shift=3.0),
        guidance=GuidanceConfig(scale=1.0),
    )
    objective = DistillationObjective(
        model=model,
        forcing=ForcingConfig(),
        null_text=np.zeros((64, 16), np.float32),
        heldout={},
        vae_params=None,
        sample_stories=1,
        sample_chunks=1,
        weights_dtype="float32",
        method=Asks(),
    )
    train = OneModelConfig(steps=4, global_batch_size=2, device_batch_size=1, ema_decay=0.9)
    return DistillationTask(objective, OptimizerConfig(lr=0.1, weight_decay=0.0), train)


def test_the_student_aims_at_its_average_and_the_teacher_stays(task, tiny):
    start = {"a": jnp.arange(3.0)}
    state = task.init_state(0, start)
    batch = {
        "latents": np.zeros((2, 3, 4, 4, 16), np.float32),
        "text": np.zeros((2, 1, 64, 16), np.float32),
        "embedding": np.zeros((2, 1, 16), np.float32),
    }
    step = jax.jit(task.train_step)
    seen = []
    for _ in range(3):
        state, metrics = step(state, batch)
        seen.append(float(metrics["teacher"]))
        np.testing.assert_array_equal(state.teacher["a"], start["a"])
    assert int(state.step) == 3 and seen[0] == 0.0 and seen[2] > seen[1] > 0.0
    assert (state.params["a"] > start["a"]).all()  # towards the average plus one
    assert (state.ema["a"] > start["a"]).all() and (state.ema["a"] < state.params["a"]).all()
    # The first loss is that of the average it began with: one for each of three numbers.
    state, metrics = step(task.init_state(0, start), batch)
    np.testing.assert_allclose(metrics["loss"], 3.0)


def test_it_starts_from_weights_or_not_at_all(task):
    with pytest.raises(UserError, match="starts from trained weights: give `init_from`"):
        task.init_state(0)


def test_what_it_exports_is_of_stage_few_step(task, tiny, tmp_path):
    task.objective.export(tiny.params["dit"], tmp_path, {"step": 4})
    assert load_made(tmp_path, "dit")["stage"] == "few-step"


@pytest.mark.slow
def test_a_step_of_consistency_distillation_moves_the_whole_network(task, tiny):
    model = task.objective.model
    forcing = TeacherForcing(
        model, ForcingConfig(targets_per_chunk=1, frames=4), np.zeros((64, 16), np.float32)
    )
    method = ConsistencyDistillation(forcing, ConsistencyConfig(levels=4, memory_guidance=2.0))
    task = dataclasses.replace(task, objective=dataclasses.replace(task.objective, method=method))
    rng = np.random.default_rng(0)
    batch = {
        "latents": rng.normal(size=(2, 1 + 2 * 3, 4, 4, 16)).astype(np.float32),
        "text": rng.normal(size=(2, 3, 64, 16)).astype(np.float32),
        "embedding": rng.normal(size=(2, 3, 16)).astype(np.float32),
        "relevance": rng.uniform(size=(2, 3, 3)).astype(np.float32),
    }
    state = task.init_state(0, tiny.params["dit"])
    new, metrics = jax.jit(task.train_step)(state, batch)
    assert all(np.isfinite(value) for value in metrics.values())
    assert {"loss", "chunks", "anchor", "frames", "grad_norm"} <= set(metrics)
    still = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(state.params),
            jax.tree.leaves(new.params),
            strict=True,
        )
        if np.array_equal(a, b)
    ]
    assert not still
