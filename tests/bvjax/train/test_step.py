"""One update: accumulation, EMA, clipping, keys and metrics, on a linear model with known gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bvjax.random import normal
from bvjax.train.one_model import make_train_step
from bvjax.train.state import init_state, step_key
from bvjax.train.step import ema_decay_at

RATE = 0.1


def init(key):
    return {"kernel": jax.random.normal(key, (3, 2)), "bias": jnp.ones(2)}


def loss(params, batch, key):
    del key
    error = batch["x"] @ params["kernel"] + params["bias"] - batch["y"]
    return jnp.mean(error**2), {"error": jnp.mean(jnp.abs(error))}


def noisy_loss(params, batch, key):
    noise = normal(key, batch["y"].shape)
    return loss(params, dict(batch, y=batch["y"] + noise), key)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(12, 3)).astype(np.float32),
        "y": rng.normal(size=(12, 2)).astype(np.float32),
    }


def make(loss_fn=loss, **options):
    optimizer = optax.sgd(RATE)
    step = make_train_step(loss_fn, optimizer, optax.constant_schedule(RATE), **options)
    return init_state(init, optimizer, seed=3), jax.jit(step)


def test_one_update_is_gradient_descent(batch):
    state, step = make()
    grads = jax.grad(lambda p: loss(p, batch, None)[0])(state.params)
    new, metrics = step(state, batch)
    for name in ("kernel", "bias"):
        expected = state.params[name] - RATE * grads[name]
        np.testing.assert_allclose(new.params[name], expected, rtol=1e-5)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in grads.values()))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    np.testing.assert_allclose(metrics["update_norm"], RATE * norm, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], loss(state.params, batch, None)[0], rtol=1e-5)
    np.testing.assert_allclose(metrics["lr"], RATE, rtol=1e-6)
    assert new.step == 1


@pytest.mark.parametrize("accum", [2, 3, 12])
@pytest.mark.parametrize("loss_fn", [loss, noisy_loss])
def test_accumulation_equals_the_big_batch(batch, accum, loss_fn):
    state, whole = make(loss_fn)
    _, parts = make(loss_fn, accum=accum)
    (a, metrics_a), (b, metrics_b) = whole(state, batch), parts(state, batch)
    for x, y in zip(jax.tree.leaves((a, metrics_a)), jax.tree.leaves((b, metrics_b)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_examples_and_steps_draw_different_noise(batch):
    same = {"x": np.zeros((2, 3), np.float32), "y": np.zeros((2, 2), np.float32)}

    def drawn(params, batch, key):
        value = normal(key, (len(batch["x"]),))
        return jnp.sum(params["kernel"]) * 0, {"value": value.mean(), "square": (value**2).mean()}

    state, step = make(drawn, accum=2)
    state, first = step(state, same)
    _, second = step(state, same)
    assert first["square"] > first["value"] ** 2 + 1e-6  # the two draws differ
    assert first["value"] != second["value"]


def test_same_state_same_update(batch):
    state, step = make(noisy_loss, accum=3)
    a, b = step(state, batch)[0], step(state, batch)[0]
    assert jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), a, b))


def test_key_depends_on_seed_and_step_only():
    optimizer = optax.sgd(RATE)
    first = init_state(init, optimizer, seed=3)
    later = first.replace(step=first.step + 5)
    other = init_state(init, optimizer, seed=4)
    data = [jax.random.key_data(step_key(s.key, s.step)).tolist() for s in (first, later, other)]
    assert len({tuple(d) for d in data}) == 3


def test_ema_follows_the_parameters(batch):
    state, step = make(ema_decay=0.5)
    expected = state.ema["kernel"]
    for t in range(8):
        state, _ = step(state, batch)
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * state.params["kernel"]
    np.testing.assert_allclose(state.ema["kernel"], expected, rtol=1e-5)
    assert not np.allclose(state.ema["kernel"], state.params["kernel"])
    np.testing.assert_allclose([ema_decay_at(0.9, t) for t in (0, 10**6)], [0.1, 0.9], rtol=1e-6)
    late = [ema_decay_at(0.9, t, start=5) for t in (4, 5, 6, 10**6)]
    np.testing.assert_allclose(late, [0.0, 0.1, 2 / 11, 0.9], rtol=1e-6)


def test_given_parameters_replace_the_drawn_ones():
    params = {"kernel": jnp.full((3, 2), 7.0), "bias": jnp.zeros(2)}
    state = init_state(init, optax.sgd(RATE), seed=0, params=params)
    np.testing.assert_array_equal(state.params["kernel"], 7.0)
    np.testing.assert_array_equal(state.ema["kernel"], 7.0)


def test_the_optimizer_state_is_carried(batch):
    optimizer = optax.adam(RATE)
    step = jax.jit(make_train_step(loss, optimizer, optax.constant_schedule(RATE)))
    state = init_state(init, optimizer, seed=3)
    params, opt_state = state.params, state.opt_state
    for _ in range(3):
        state, _ = step(state, batch)
        grads = jax.grad(lambda p: loss(p, batch, None)[0])(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(state.params["kernel"], params["kernel"], rtol=1e-5)
