"""Rates by hand, and the FLOPs of a step of a task whose products can be counted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.sharding import make_layout
from bvjax.train.config import OneModelConfig
from bvjax.train.one_model import OneModelTask
from bvjax.train.optimizer import OptimizerConfig
from bvjax.train.step import compile_step
from bvjax.train.task import shapes_of
from bvjax.train.throughput import Throughput, in_words, measure


class Products:
    """x k k', the second product recomputed by the backward pass."""

    part, axes, frozen = "dit", ("data",), ()

    def init(self, key):
        return {"a": jnp.ones((5, 7)), "b": jnp.ones((7, 2))}

    def loss(self, params, batch, key):
        y = jax.checkpoint(lambda x: jnp.sin(x @ params["a"]))(batch["x"])
        return jnp.mean(y @ params["b"]), {}


def task(layout=None, device_batch=1) -> OneModelTask:
    config = OneModelConfig(steps=3, global_batch_size=8, device_batch_size=device_batch)
    layouts = {} if layout is None else {"layout": layout}
    return OneModelTask(Products(), OptimizerConfig(), config, **layouts)


FORWARD = 2 * 8 * 5 * 7 + 2 * 8 * 7 * 2
WORK = FORWARD + 2 * 8 * 5 * 7 + 2 * 2 * 8 * 7 * 2  # no derivative of x is needed


@pytest.mark.parametrize("mesh, device_batch", [(False, 1), (False, 4), (True, 8)])
def test_the_work_of_a_step_is_that_of_its_products_once(mesh, device_batch):
    layout = make_layout({"data": 1}, jax.devices()[:1]) if mesh else None
    one = task(layout, device_batch)
    state = shapes_of(one)
    batch = {"x": jax.ShapeDtypeStruct((8, 5), jnp.float32)}
    speed = measure(one, compile_step(one, state), state, batch, 8)
    assert speed.work == WORK and speed.devices == 1 and speed.peak is None


def test_rates_by_hand():
    cpu = Throughput(8, 3 * 10**9, 2)
    assert cpu.scalars(0.5) == {
        "steps_per_second": 0.5,
        "examples_per_second": 4.0,
        "gflops_per_device": 0.75,
    }
    tpu = Throughput(8, 459 * 10**13, 4, 459e12).scalars(0.2)
    assert tpu["tflops_per_device"] == pytest.approx(229.5) and tpu["mfu"] == pytest.approx(0.5)
    assert set(Throughput(8).scalars(1.0)) == {"steps_per_second", "examples_per_second"}
    assert in_words(tpu).endswith("230 TFLOP/s a device, 0.5 MFU")


def test_work_that_cannot_be_counted_is_said_and_stops_nothing(caplog):
    speed = measure(object.__new__(OneModelTask), None, None, {"x": np.ones(1)}, 8)
    assert speed.work is None
