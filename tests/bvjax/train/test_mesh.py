"""Batch arithmetic and where arrays live."""

from __future__ import annotations

import jax
import pytest

from bvjax.errors import UserError
from bvjax.placement import training_mesh_error
from bvjax.sharding import AXES, ONE_DEVICE
from bvjax.train.mesh import accumulation_steps, batch_sharding, describe_batch, training_layout


@pytest.mark.parametrize("batch", [(64, 16, 1), (64, 2, 4), (8, 8, 1), (96, 1, 32)])
def test_the_product_is_the_global_batch(batch):
    total, device_batch, devices = batch
    assert accumulation_steps(*batch) * device_batch * devices == total


def test_description():
    assert describe_batch(64, 16, 1) == "64 = data 1 x 16 x 4 accumulation"
    assert describe_batch(64, 2, 4) == "64 = data 4 x 2 x 8 accumulation"


def test_a_batch_that_does_not_divide_names_the_nearest_that_does():
    with pytest.raises(UserError, match="global_batch_size 65 .* the nearest that is: 64"):
        accumulation_steps(65, 16, 1)
    with pytest.raises(UserError, match="the nearest that is: 16"):
        accumulation_steps(3, 16, 1)
    with pytest.raises(UserError, match="must be positive"):
        accumulation_steps(0, 16, 1)


def test_one_device_holds_everything():
    layout = training_layout("", AXES, "dit")
    assert layout is ONE_DEVICE and training_layout("data=1,fsdp=1", ("data",), "vae") is ONE_DEVICE
    x = jax.device_put(jax.numpy.ones((4, 3)), batch_sharding(layout))
    assert x.sharding.is_fully_replicated


@pytest.mark.parametrize(
    "mesh, part, message",
    [
        ("fsdp=2", "vae", "the vae is trained over the axis data alone, without fsdp"),
        ("data=64", "text", "a mesh of data=64.* has 64 devices; there are"),
        ("rows=2", "dit", "a mesh is written like context=4,tensor=2"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(mesh, part, message):
    with pytest.raises(UserError, match=message):
        training_layout(mesh, AXES if part == "dit" else ("data",), part)


def test_what_a_mesh_must_divide(tiny):
    assert training_mesh_error(tiny.model, dict(data=7, fsdp=2, context=2, tensor=2)) is None
    assert "tensor=3 does not cut 2 heads evenly" in training_mesh_error(tiny.model, dict(tensor=3))
    why = training_mesh_error(tiny.model, dict(fsdp=2, context=4))
    assert why == "fsdp x context=8 does not cut 4 tokens evenly; it can be [1, 2, 4]"
    # tiny's slots have 6 rows, which only rollouts ask for.
    assert training_mesh_error(tiny.model, dict(fsdp=4)) is None
    why = training_mesh_error(tiny.model, dict(fsdp=4), rollouts=True)
    assert "fsdp x context=4 does not cut 6 rows of a slot (memory.capacity) evenly" in why
