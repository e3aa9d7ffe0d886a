"""Learning rates by step, the decay mask and clipping."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bvjax.errors import UserError
from bvjax.train.optimizer import (
    MUON_OTHERS,
    MUON_RMS,
    OptimizerConfig,
    decay_mask,
    learning_rate,
    make_optimizer,
)


def test_stepwise_is_the_papers():
    rate = learning_rate(OptimizerConfig(), steps=100)
    np.testing.assert_allclose([rate(s) for s in (0, 49, 50, 99)], [1e-4, 1e-4, 5e-5, 5e-5])


def test_stepwise_with_warmup_and_two_drops():
    config = OptimizerConfig(lr=1.0, warmup_steps=4, milestones=(0.5, 0.75), factors=(0.5, 0.1))
    rate = learning_rate(config, steps=40)
    np.testing.assert_allclose([rate(s) for s in range(5)], [0.25, 0.5, 0.75, 1.0, 1.0])
    np.testing.assert_allclose([rate(s) for s in (19, 20, 29, 30)], [1.0, 0.5, 0.5, 0.1])


def test_cosine_ends_at_the_final_factor():
    config = OptimizerConfig(lr=2.0, schedule="cosine", warmup_steps=10, final_factor=0.1)
    rate = learning_rate(config, steps=110)
    np.testing.assert_allclose(rate(9), 2.0, rtol=1e-6)
    np.testing.assert_allclose(rate(60), 2.0 * (0.5 + 0.05), rtol=1e-5)
    np.testing.assert_allclose(rate(110), 0.2, rtol=1e-5)


@pytest.mark.parametrize("warmup", [1, 7])
def test_warmup_never_starts_at_zero(warmup):
    config = OptimizerConfig(schedule="cosine", warmup_steps=warmup)
    assert float(learning_rate(config, 20)(0)) > 0


def test_bad_schedules_are_refused():
    with pytest.raises(UserError, match="'linear'; it can be stepwise or cosine"):
        OptimizerConfig(schedule="linear")
    for milestones in ((0.5, 0.7), (0.7, 0.5)):
        with pytest.raises(UserError, match="milestones"):
            OptimizerConfig(milestones=milestones, factors=(0.5,) * (3 - len(set(milestones))))
    with pytest.raises(UserError, match="ascend"):
        OptimizerConfig(milestones=(0.7, 0.5), factors=(0.5, 0.1))


def test_decay_mask_spares_vectors_norms_and_modulation():
    params = {
        "dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        "norm": {"scale": jnp.ones(2)},
        "modulation": jnp.ones((1, 6, 2)),
        "blocks": {
            "dense": {"kernel": jnp.ones((3, 2, 2)), "bias": jnp.ones((3, 2))},
            "norm": {"weight": jnp.ones((3, 2))},
            "modulation": jnp.ones((3, 1, 6, 2)),
        },
    }
    assert decay_mask(params) == {
        "dense": {"kernel": True, "bias": False},
        "norm": {"scale": False},
        "modulation": False,
        "blocks": {
            "dense": {"kernel": True, "bias": False},
            "norm": {"weight": False},
            "modulation": False,
        },
    }


def test_only_masked_parameters_shrink_without_gradient():
    config = OptimizerConfig(lr=0.1, weight_decay=0.5)
    optimizer = make_optimizer(config, optax.constant_schedule(0.1))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0.0)


def test_moments_are_those_of_the_clipped_gradient():
    optimizer = make_optimizer(OptimizerConfig(clip=1.0), optax.constant_schedule(0.1))
    params = {"kernel": jnp.zeros((2, 2))}
    grads = {"kernel": jnp.full((2, 2), 50.0)}  # norm 100
    _, state = optimizer.update(grads, optimizer.init(params), params)
    mu = optax.tree_utils.tree_get(state, "mu")["kernel"]
    np.testing.assert_allclose(mu, 0.1 * 0.5, rtol=1e-5)


def test_muon_orthogonalises_kernels_layer_by_layer():
    config = OptimizerConfig(kind="muon", weight_decay=0.0, clip=1e9)
    optimizer = make_optimizer(config, optax.constant_schedule(0.1))
    rng = np.random.default_rng(0)
    grads = {
        "conv": {"kernel": rng.normal(size=(3, 2, 4)), "bias": rng.normal(size=4)},
        "blocks": {
            "kernel": rng.normal(size=(2, 8, 4)),
            "modulation": rng.normal(size=(2, 1, 6, 4)),
        },
    }
    grads = jax.tree.map(jnp.float32, grads)
    params = jax.tree.map(jnp.zeros_like, grads)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    flat = updates["conv"]["kernel"].reshape(6, 4)  # all inputs to all outputs
    for matrix, gradient in (
        (flat, grads["conv"]["kernel"].reshape(6, 4)),
        *zip(updates["blocks"]["kernel"], grads["blocks"]["kernel"], strict=True),
    ):
        scale = 0.1 * MUON_RMS * np.sqrt(max(matrix.shape))
        singular = np.linalg.svd(np.asarray(matrix), compute_uv=False) / scale
        assert singular.min() > 0.5 and singular.max() < 1.4  # five Newton-Schulz steps are rough
        assert np.sum(np.asarray(matrix) * np.asarray(gradient)) < 0  # and downhill
    for vector in (updates["conv"]["bias"], updates["blocks"]["modulation"]):
        first = 1 + config.b1 / (
            1 + config.b1
        )  # Adam's first step is 1, with Nesterov momentum this
        np.testing.assert_allclose(np.abs(vector), 0.1 * MUON_OTHERS * first, rtol=1e-3)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_frozen_modules_do_not_move(kind):
    config = OptimizerConfig(kind=kind, weight_decay=0.5)
    optimizer = make_optimizer(config, optax.constant_schedule(0.1), frozen=("encoder",))
    params = {
        name: {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for name in ("encoder", "decoder")
    }
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert not any(np.any(u) for u in jax.tree.leaves(updates["encoder"]))
    assert all(np.any(u) for u in jax.tree.leaves(updates["decoder"]))


def test_unknown_kind_is_refused():
    with pytest.raises(UserError, match="'sgd'; it can be adamw or muon"):
        OptimizerConfig(kind="sgd")
