"""The state of stage 2 on a mesh, in bytes, against sums written out; the step itself is compiled in tests/aot."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from bvjax.chips import find_chip
from bvjax.errors import UserError
from bvjax.plan import self_forcing
from bvjax.plan.training import batch_shapes
from bvjax.presets import get_preset
from bvjax.sharding import AXES, Layout
from bvjax.train.task import shapes_of

MINI = self_forcing.few_step(get_preset("mini"))
CUT = Layout(AbstractMesh((2, 4, 1, 1), AXES))


def count(params) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


def test_every_player_and_the_rollouts_are_sharded():
    chunks, videos = 5, 4
    recipe = self_forcing.default_recipe(MINI, chunks, targets=1)
    assert recipe.settings.window == 3 and recipe.critic.taps == (1, 3, 5)
    task = self_forcing.make_task(MINI, CUT, recipe, videos, chunks)
    assert task.micro_batches == 2
    state = shapes_of(task)
    parts = self_forcing.memory_parts(state, batch_shapes(MINI, CUT, videos, chunks))
    whole = 4 * count(state.generator.params)
    outside = 4 * count({k: x for k, x in state.generator.params.items() if k != "blocks"})
    assert whole / 4 < parts["generator"] < whole / 4 + outside + whole / 50
    assert parts["average"] == parts["generator"]
    assert parts["optimizer"] == pytest.approx(2 * parts["generator"], rel=1e-3)
    heads = 4 * count(state.critics["discriminator"].params["heads"])
    assert parts["discriminator"] - parts["generator"] == pytest.approx(heads / 4, rel=0.03)
    # Two rollouts a replica, their rows over four devices: keys and values of 16 slots, none is spare.
    rows = MINI.dit.num_layers * MINI.memory.slots * MINI.memory.capacity
    bank = videos // 2 * rows * 2 * MINI.dit.dim * 4 // 4
    assert bank < parts["rollouts"] < 1.3 * bank
    assert "teacher" not in parts and np.isfinite(list(parts.values())).all()


def test_a_mesh_that_cuts_no_slot_is_refused():
    model = get_preset("mini")
    chip, say = find_chip("v5p"), lambda text: None
    with pytest.raises(UserError, match="a mesh of .* has 3 devices; there are 1"):
        self_forcing.make_plan(model, "", chip, jax.devices()[:1], dict(fsdp=3), 0.1, None, say)
    with pytest.raises(UserError, match="`batch` is 0; it must be a multiple of data=1"):
        self_forcing.make_plan(model, "", chip, jax.devices()[:1], dict(data=1), 0.1, 0, say)
