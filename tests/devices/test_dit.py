"""The DiT on a mesh of eight devices is the DiT on one."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import DiTConfig
from bvjax.nets.dit import Context, WanDiT, init_params
from bvjax.nets.probing import OWN_KEYS, Probing
from bvjax.sharding import make_layout

CFG = DiTConfig(
    dim=48, num_heads=4, num_layers=2, ffn_dim=96, freq_dim=16, in_channels=4, out_channels=4
)
TEXT, ROWS = 24, 64
MESHES = [
    dict(context=8),
    dict(tensor=4, context=2),
    dict(data=2, context=2, tensor=2),
    dict(data=2, fsdp=2, context=2),
]


@pytest.fixture(scope="module")
def case():
    key = jax.random.key(0)
    params = init_params(CFG, TEXT, key)
    fill = lambda path, x: x + 0.1 * jax.random.normal(jax.random.fold_in(key, x.size), x.shape)
    params = jax.tree_util.tree_map_with_path(fill, params)
    draw = lambda i, *shape: jax.random.normal(jax.random.fold_in(key, i), shape)
    positions = np.stack(np.meshgrid(range(2), range(4), range(4), indexing="ij"), -1)
    rows = (CFG.num_layers, 2, 1, ROWS)
    context = Context(
        keys=draw(1, *rows, CFG.num_heads, CFG.head_dim),
        values=draw(2, *rows, CFG.num_heads, CFG.head_dim),
        length=jnp.full((CFG.num_layers, 2, 1), 37, jnp.int32).at[1].set(50),
    )
    inputs = (
        draw(3, 2, 1, 2, 8, 8, 4),
        jnp.full((2, 1, 2), 0.4).at[:, :, 0].set(0.0),
        draw(4, 2, 1, 5, TEXT),
        jnp.broadcast_to(jnp.asarray(positions.reshape(-1, 3)), (2, 1, 32, 3)),
        context,
        jnp.array([0, 3, 9, 17, 30, 31]),
    )
    return params, inputs


def run(params, inputs, probing=OWN_KEYS, **options):
    net = WanDiT(CFG, TEXT, **options)
    apply = lambda p, *x: net.apply({"params": p}, *x, return_kv=True, probing=probing)
    return jax.jit(apply)(params, *inputs)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_mesh_and_one_device_agree(case, sizes):
    params, inputs = case
    expected = run(params, inputs)
    layout = make_layout(sizes)
    placed = jax.device_put(params, layout.parameters(params))
    got = run(placed, inputs, layout=layout)
    for name, a, b in zip(
        ("velocity", "keys", "values", "importance"),
        jax.tree.leaves(got),
        jax.tree.leaves(expected),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max(), err_msg=name)
    per_device = got[1].keys.addressable_shards[0].data.size
    cut = layout.size("fsdp", "context", "tensor") * layout.size("data")
    assert per_device * cut == got[1].keys.size


def test_keys_of_the_context_share_the_probes_attention_on_a_mesh(case):
    params, inputs = case
    layout, over_all = make_layout(MESHES[2]), Probing(over_all=True)
    placed = jax.device_put(params, layout.parameters(params))
    expected = run(params, inputs, over_all)[1].importance
    got = run(placed, inputs, over_all, layout=layout)[1].importance
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
    own = len(inputs[5]) * CFG.num_heads  # all of the attention
    assert (expected.sum(-1) < 0.9 * own).all()


def test_rows_beyond_the_length_are_not_seen(case):
    params, inputs = case
    layout = make_layout(MESHES[0])
    context = inputs[4]
    changed = dataclasses.replace(context, keys=context.keys.at[..., 50:, :, :].add(3.0))
    a, b = (run(params, (*inputs[:4], c, inputs[5]), layout=layout)[0] for c in (context, changed))
    np.testing.assert_array_equal(a, b)
    c = run(
        params, (*inputs[:4], context.replace(keys=context.keys + 3.0), inputs[5]), layout=layout
    )
    assert np.abs(a - c[0]).max() > 1e-3
