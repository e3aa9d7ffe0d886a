"""A step of training on a mesh is the step of one device; a run goes on on another mesh."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bvjax.errors import UserError
from bvjax.losses.teacher_forcing import ForcingConfig
from bvjax.overrides import apply_overrides
from bvjax.sharding import AXES, ONE_DEVICE, make_layout
from bvjax.train.checkpoint import Checkpoints, restore_newest
from bvjax.train.config import OneModelConfig
from bvjax.train.dit_objective import DiTObjective
from bvjax.train.loop import fit
from bvjax.train.mesh import batch_sharding, state_shardings, training_layout
from bvjax.train.one_model import OneModelTask, make_train_step
from bvjax.train.optimizer import OptimizerConfig, make_optimizer
from bvjax.train.state import init_state
from data_pipelines.counter_source import IndexedBatches

CHUNKS, STORIES = 3, 4
SMALL = ForcingConfig(targets_per_chunk=1)
CASES = [
    (dict(data=2, fsdp=2, context=2), "none", ForcingConfig(frames=4), 2, False),
    (dict(tensor=2), "with", SMALL, 1, False),
    (dict(context=2, tensor=2), "with", SMALL, 1, True),
    (dict(data=2, fsdp=2), "none", ForcingConfig(drawn_targets=1), 2, False),
]


def layout_of(sizes):
    return make_layout(sizes, jax.devices()[: int(np.prod(list(sizes.values())))])


def make_task(tiny, build="none", forcing=SMALL, layout=ONE_DEVICE, dense=False):
    """With `dense` the recent entries are read whole, the others as the bank keeps them."""
    model = tiny.variant(build={"context": build}, dit={"remat": "full"})
    if dense:
        whole = ("retrieval.dense_recent=true", "memory.capacity=8")
        model = apply_overrides(model, whole)
    return DiTObjective(
        model=model,
        forcing=forcing,
        heldout={},
        vae_params=None,
        null_text=np.zeros((model.text.max_length, model.text.dim), np.float32),
        sample_stories=0,
        sample_chunks=0,
        weights_dtype="float32",
        layout=layout,
    )


def make_batch(model, seed=0):
    rng, text = np.random.default_rng(seed), model.text
    batch = {
        "latents": rng.normal(size=(STORIES, 1 + 2 * CHUNKS, 4, 4, 16)),
        "text": rng.normal(size=(STORIES, CHUNKS, text.max_length, text.dim)),
        "embedding": rng.normal(size=(STORIES, CHUNKS, text.dim)),
        "relevance": rng.uniform(size=(STORIES, CHUNKS, CHUNKS)),
    }
    return {name: array.astype(np.float32) for name, array in batch.items()}


def step(tiny, build, forcing, layout, accum, dense):
    """State and metrics after one step; the trace of momentum is the gradient."""
    task, optimizer = make_task(tiny, build, forcing, layout, dense), optax.sgd(0.1, momentum=0.9)
    state = init_state(task.init, optimizer, 0, tiny.params["dit"])
    where = state_shardings(layout, state, state.params)
    run = jax.jit(
        make_train_step(task.loss, optimizer, lambda step: 0.1, accum=accum),
        in_shardings=(where, batch_sharding(layout)),
        out_shardings=(where, None),
    )
    return run(jax.device_put(state, where), make_batch(task.model))


@pytest.mark.parametrize(
    "sizes, build, forcing, accum, dense", CASES, ids=["rows", "heads", "whole", "drawn"]
)
def test_a_step_on_a_mesh_is_that_of_one_device(tiny, sizes, build, forcing, accum, dense):
    layout = layout_of(sizes)
    expected, metrics = step(tiny, build, forcing, ONE_DEVICE, accum, dense)
    got, same = step(tiny, build, forcing, layout, accum, dense)
    for name, value in metrics.items():
        np.testing.assert_allclose(same[name], value, rtol=1e-5, err_msg=name)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path((got.params, got.ema, got.opt_state)),
        jax.tree.leaves((expected.params, expected.ema, expected.opt_state)),
        strict=True,
    ):
        largest = np.abs(b).max()
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, atol=1e-5 * largest, rtol=0, err_msg=name)
        assert "kernel" not in name or largest > 1e-4  # nothing is equal for being zero
    for tree in (got.params, got.ema, got.opt_state[0].trace):
        kernel = tree["blocks"]["self_attn"]["q"]["kernel"]
        cut = layout.size("fsdp", "tensor")
        assert kernel.addressable_shards[0].data.size * cut == kernel.size


def test_how_a_batch_is_cut_changes_nothing(tiny):
    """Four examples at once on one device, and one on each of four: the draws are those of the examples."""
    layout, forcing = layout_of(dict(data=4)), ForcingConfig(frames=4)
    expected, metrics = step(tiny, "none", forcing, ONE_DEVICE, 1, False)
    got, same = step(tiny, "none", forcing, layout, 1, False)
    for name in ("loss", "grad_norm", "flow", "anchor"):
        np.testing.assert_allclose(same[name], metrics[name], rtol=1e-6, err_msg=name)
    for a, b in zip(jax.tree.leaves(got.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(float(np.abs(b).max()), 1e-6))
    task = make_task(tiny)
    heldout = {name: array[:3] for name, array in make_batch(task.model, 5).items()}
    of_one, of_four = (
        dataclasses.replace(make_task(tiny, layout=where), heldout=heldout).heldout_by_level(
            jax.device_put(tiny.params["dit"], where.sharding())
        )
        for where in (ONE_DEVICE, layout)
    )
    assert of_four == {name: pytest.approx(value, rel=1e-5) for name, value in of_one.items()}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_run_goes_on_on_another_mesh(tiny, tmp_path, kind):
    optimizer = make_optimizer(OptimizerConfig(kind=kind), lambda step: 1e-3)
    state = init_state(make_task(tiny).init, optimizer, 0, tiny.params["dit"])
    state = state.replace(step=jnp.int32(3))
    before = state_shardings(layout_of(dict(data=2, fsdp=2)), state, state.params)
    cut = [w for w in jax.tree.leaves(before) if not w.is_fully_replicated]
    assert len(cut) >= 30  # of params, ema and moments; the rest are vectors and not of layers
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(3, jax.device_put(state, before), {"position": 5})
    saved.close()
    for sizes in (dict(), dict(fsdp=2, tensor=2)):
        layout = layout_of(sizes) if sizes else ONE_DEVICE
        like = jax.tree.map(
            lambda x, w: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=w),
            state,
            state_shardings(layout, state, state.params),
        )
        restored = restore_newest(tmp_path, like).state
        jax.tree.map(np.testing.assert_array_equal, restored, state)
        assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding == s.sharding, restored, like))


class Regression:
    """y = x k + b, a task that compiles at once."""

    part = "vae"
    axes = ("data",)
    frozen = ()

    def init(self, key):
        return {"dense": {"kernel": jax.random.normal(key, (3, 2)), "bias": jnp.zeros(2)}}

    def sample(self, params, folder, step):
        return {}

    def loss(self, params, batch, key):
        y = batch["x"] @ params["dense"]["kernel"] + params["dense"]["bias"]
        return jnp.mean((y - batch["y"]) ** 2), {}


def test_the_loop_cuts_a_batch_over_data_and_resumes_without(tmp_path):
    def data():
        rng = np.random.default_rng(0)
        x, y = (rng.normal(size=(16, n)).astype(np.float32) for n in (3, 2))
        return IndexedBatches(lambda i: {"x": np.roll(x, i, 0), "y": y})

    config = OneModelConfig(steps=4, global_batch_size=16, device_batch_size=1, sample_every=0)
    cut = dataclasses.replace(config, mesh="data=8")
    whole = dataclasses.replace(config, device_batch_size=8)  # as many micro batches
    args = OptimizerConfig(lr=0.1, milestones=(), factors=())  # the rate of any number of steps

    def train(config, workdir, **options):
        layout = training_layout(config.mesh, ("data",), "line")
        task = OneModelTask(Regression(), args, config, layout)
        return fit(task, data(), config, workdir, **options)

    expected = train(whole, tmp_path / "one")
    train(dataclasses.replace(cut, steps=2), tmp_path / "run")
    got = train(whole, tmp_path / "run", extend=True)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        got.state.params,
        expected.state.params,
    )


def test_only_the_dit_is_cut_along_other_axes():
    with pytest.raises(
        UserError, match="the vae is trained over the axis data alone, without fsdp"
    ):
        training_layout("data=4,fsdp=2", ("data",), "vae")
    assert training_layout("data=8", ("data",), "vae").size("data") == 8
    assert training_layout("data=2,fsdp=4", AXES, "dit").size("fsdp") == 4
