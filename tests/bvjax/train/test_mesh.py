"""Batch arithmetic and where arrays live."""

from __future__ import annotations

import jax
import pytest
from jax.sharding import PartitionSpec

from bvjax.errors import UserError
from bvjax.train.mesh import (
    accumulation_steps,
    batch_sharding,
    describe_batch,
    make_mesh,
    state_sharding,
)


@pytest.mark.parametrize("batch", [(64, 16, 1), (64, 2, 4), (8, 8, 1), (96, 1, 32)])
def test_the_product_is_the_global_batch(batch):
    total, device_batch, devices = batch
    assert accumulation_steps(*batch) * device_batch * devices == total


def test_description():
    assert describe_batch(64, 16, 1) == "64 = 1 device x 16 x 4 accumulation"
    assert describe_batch(64, 2, 4) == "64 = 4 devices x 2 x 8 accumulation"


def test_a_batch_that_does_not_divide_names_the_nearest_that_does():
    with pytest.raises(UserError, match="global_batch_size 65 .* the nearest that is: 64"):
        accumulation_steps(65, 16, 1)
    with pytest.raises(UserError, match="the nearest that is: 16"):
        accumulation_steps(3, 16, 1)
    with pytest.raises(UserError, match="must be positive"):
        accumulation_steps(0, 16, 1)


def test_one_device_holds_everything():
    mesh = make_mesh()
    assert mesh.axis_names == ("data",) and mesh.devices.size == 1
    assert batch_sharding(mesh).spec == PartitionSpec("data")
    x = jax.device_put(jax.numpy.ones((4, 3)), state_sharding(mesh))
    assert x.sharding.is_fully_replicated
