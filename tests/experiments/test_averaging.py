"""Averages of weights: values, provenance, and what is refused."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.weights import load_made, load_weights, save_weights
from experiments.averaging import average


@pytest.fixture
def pair(tiny, tmp_path):
    """Two weights folders whose DiT differ, and the trees in them."""
    trees, rng = [], np.random.default_rng(0)
    for name in ("before", "after"):
        shutil.copytree(tiny.weights, tmp_path / name)
        noisy = jax.tree.map(lambda x: x + rng.normal(size=x.shape), tiny.params["dit"])
        save_weights(tmp_path / name, tiny.model, {"dit": noisy}, meta={"name": name})
        trees.append(load_weights(tmp_path / name, ("dit",))[1]["dit"])
    return tmp_path, *trees


def test_is_the_mean_and_says_so(pair):
    folder, old, new = pair
    before, after, out = folder / "before", folder / "after", folder / "after"
    average(
        before,
        after,
        0.75,
        out,
        dtype="float32",
        overrides=["guidance.scale=7", "guidance.memory=2"],
    )
    model, params = load_weights(out)
    want = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, old, new)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params["dit"], want)
    assert (model.guidance.scale, model.guidance.memory) == (7.0, 2.0)
    told = {"before": str(before), "after": str(after), "share": 0.75}
    assert load_made(out, "dit") == {"name": "after", "averaged": told}


def test_unlike_parts_are_refused_and_nothing_is_written(pair, tiny):
    folder, *_ = pair
    other = dataclasses.replace(tiny.model, dit=dataclasses.replace(tiny.model.dit, eps=1e-5))
    save_weights(folder / "before", other, {"dit": tiny.params["dit"]})
    with pytest.raises(UserError, match="are not configured alike"):
        average(folder / "before", folder / "after", 0.5, folder / "out")
    with pytest.raises(UserError, match="guidance.memory is -1"):
        average(
            folder / "after",
            folder / "after",
            0.5,
            folder / "out",
            overrides=["guidance.memory=-1"],
        )
    assert not (folder / "out").exists()
