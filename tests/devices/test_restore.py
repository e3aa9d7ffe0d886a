"""A training state saved on one mesh is restored onto any other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from bvjax.sharding import longest_axis_rule
from bvjax.train.checkpoint import Checkpoints, restore_newest
from bvjax.train.state import init_state


def place(state, devices: int):
    rule = longest_axis_rule(Mesh(np.array(jax.devices()[:devices]), ("fsdp",)))
    sharding = jax.tree.map(lambda x: rule("", x.shape), state)
    return jax.device_put(state, sharding)


@pytest.mark.parametrize("before, after", [(8, 4), (8, 1), (4, 2), (2, 8), (1, 8)])
def test_restored_onto_another_mesh(tmp_path, before, after):
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(16, 24)), jnp.float32)}
    state = init_state(lambda key: params, optax.sgd(0.1), 0).replace(step=jnp.int32(3))
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(3, place(state, before), {"position": 5})
    saved.close()
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), place(state, after)
    )
    found = restore_newest(tmp_path, like)
    restored = found.state
    assert found.saved.data_state == {"position": 5}
    assert restored.params["kernel"].sharding.num_devices == after
    jax.tree.map(np.testing.assert_array_equal, restored, state)
