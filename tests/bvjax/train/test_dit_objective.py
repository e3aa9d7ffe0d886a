"""The DiT task: held-out loss, strips, and what an export says."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_step import examples, random_params
from PIL import Image
from self_forcing import make_task

from bvjax.losses.history import HistoryConfig
from bvjax.losses.teacher_forcing import ForcingConfig, TeacherForcing
from bvjax.random import ExampleKeys
from bvjax.train.dit_objective import DiTObjective
from bvjax.train.step import accumulate
from bvjax.weights import load_config, load_weights

CHUNKS, STORIES = 2, 3


@pytest.fixture(scope="module")
def task(tiny):
    model = dataclasses.replace(
        tiny.model, dit=dataclasses.replace(tiny.model.dit, matmul_precision="bfloat16")
    )
    length, dim = model.text.max_length, model.text.dim
    rng = np.random.default_rng(0)
    heldout = {
        "latents": rng.normal(size=(STORIES, 1 + 2 * CHUNKS, 4, 4, 16)),
        "text": rng.normal(size=(STORIES, CHUNKS, length, dim)),
        "embedding": rng.normal(size=(STORIES, CHUNKS, dim)),
        "relevance": rng.uniform(size=(STORIES, CHUNKS, CHUNKS)),
    }
    return DiTObjective(
        model=model,
        forcing=ForcingConfig(targets_per_chunk=1, frames=4),
        null_text=np.zeros((length, dim), np.float32),
        heldout={name: array.astype(np.float32) for name, array in heldout.items()},
        vae_params=tiny.params["vae"],
        sample_stories=2,
        sample_chunks=1,
        weights_dtype="float32",
    )


@pytest.mark.slow
def test_sample_draws_strips_and_measures_the_loss_on_all_held_out_stories(task, tiny, tmp_path):
    params = tiny.params["dit"]
    scores = task.sample(params, tmp_path, 7)
    picture = np.asarray(Image.open(tmp_path / "0000007.png"))
    assert picture.shape == (2 * 2 * 32, 2 * 32, 3)  # truth over generated, two stories, two frames
    assert not np.array_equal(picture[:32], picture[32:64])
    losses = []
    for i in range(STORIES):
        story = {name: array[i : i + 1] for name, array in task.heldout.items()}
        losses.append(task.loss(params, story, jax.random.key(i))[0])
    np.testing.assert_allclose(scores["heldout_loss"], np.mean(losses), rtol=1e-4)
    assert {"heldout_flow", "heldout_anchor", "heldout_frames", "heldout_at_0.5"} <= set(scores)
    again = task.heldout_loss(params) | task.heldout_by_level(params)
    assert again == {k: pytest.approx(v) for k, v in scores.items()}


def test_an_export_multiplies_in_float32(task, tiny, tmp_path):
    task.export(tiny.params["dit"], tmp_path, {"step": 3})
    assert load_config(tmp_path).dit == tiny.model.dit  # which has matmul_precision="float32"
    loaded = load_weights(tmp_path, ("dit",))[1]["dit"]
    jax.tree.map(np.testing.assert_array_equal, loaded, tiny.params["dit"])


def test_the_held_out_loss_at_a_level_is_that_of_a_step_at_this_level(monkeypatch):
    """Its twin is the scalar `flow` of the training loss, whose levels are set."""
    objective = dataclasses.replace(make_task().objective, heldout=examples(3, seed=9))
    params = random_params()
    means = objective.heldout_by_level(params)
    assert means == objective.heldout_by_level(params)
    assert list(means) == [f"heldout_at_0.{n}" for n in (1, 3, 5, 7, 9)]
    level = 0.7
    monkeypatch.setattr(
        TeacherForcing, "_sigma", lambda self, key, target, chunks: jnp.full(target.shape, level)
    )
    keys = ExampleKeys(jax.random.key(0), jnp.arange(3))
    _, metrics = jax.jit(objective.loss)(params, objective.heldout, keys)
    assert means["heldout_at_0.7"] == pytest.approx(float(metrics["flow"]), rel=1e-5)
    assert means["heldout_at_0.1"] != pytest.approx(means["heldout_at_0.9"], rel=1e-2)


@pytest.mark.slow
def test_batches_cut_in_any_way_give_the_same_loss_and_gradient():
    """1 x 4, 2 x 2 and 4 x 1 examples: every draw is that of an example."""
    forcing = ForcingConfig(
        targets_per_chunk=1, frames=4, history=HistoryConfig(chances={"semantic": 1, "random": 1})
    )
    objective = dataclasses.replace(make_task().objective, forcing=forcing)
    params, batch = random_params(), examples(4)

    def update(accum):
        run = jax.jit(lambda p, b, k: accumulate(objective.loss, p, b, k, accum))
        return run(params, batch, jax.random.key(0))

    metrics, gradient = update(1)
    for accum in (2, 4):
        same, other = update(accum)
        assert same["loss"] == pytest.approx(float(metrics["loss"]), rel=1e-6)
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(np.abs(b).max(), 1e-6))
