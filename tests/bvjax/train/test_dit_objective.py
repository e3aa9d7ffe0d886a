"""The DiT task: held-out loss, strips, and what an export says."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from bvjax.losses.teacher_forcing import ForcingConfig
from bvjax.train.dit_objective import DiTObjective
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
    assert {"heldout_flow", "heldout_anchor", "heldout_frames"} <= set(scores)
    assert task.heldout_loss(params) == {k: pytest.approx(v) for k, v in scores.items()}


def test_an_export_multiplies_in_float32(task, tiny, tmp_path):
    task.export(tiny.params["dit"], tmp_path, {"step": 3})
    assert load_config(tmp_path).dit == tiny.model.dit  # which has matmul_precision="float32"
    loaded = load_weights(tmp_path, ("dit",))[1]["dit"]
    jax.tree.map(np.testing.assert_array_equal, loaded, tiny.params["dit"])
