"""Blocks along the chunk axis: no block sees a later one, all see the earlier ones and the context."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import DiTConfig
from bvjax.nets import block_causal, dit

CFG = DiTConfig(
    dim=32,
    num_heads=2,
    num_layers=2,
    ffn_dim=48,
    freq_dim=16,
    in_channels=4,
    out_channels=4,
    similarity_keys=True,
)
FRAMES, BLOCK, SIDE, TEXT, DT = 6, 2, 4, 3, 6
TOKENS = 4  # of a frame
MODEL = dit.WanDiT(CFG, DT)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda key: dit.init_params(CFG, DT, key), jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        offset = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(offset + 0.3 * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def inputs():
    rng = np.random.default_rng(1)
    t, h, w = np.meshgrid(np.arange(FRAMES), np.arange(2), np.arange(2), indexing="ij")
    return (
        jnp.asarray(rng.standard_normal((1, 1, FRAMES, SIDE, SIDE, 4)), jnp.float32),
        jnp.linspace(0.2, 0.9, FRAMES)[None, None],
        jnp.asarray(rng.standard_normal((1, 1, TEXT, DT)), jnp.float32),
        jnp.asarray(np.stack([t, h, w], -1).reshape(1, 1, -1, 3)),
    )


def context(rows=5):
    rng = np.random.default_rng(2)
    shape = (CFG.num_layers, 1, 1, rows)
    keys, values = rng.standard_normal((2, *shape, CFG.num_heads, CFG.head_dim)).astype(np.float32)
    return dit.Context(
        keys=jnp.asarray(keys),
        values=jnp.asarray(values),
        length=jnp.full(shape[:3], rows - 1),
        similarity=jnp.full(shape, 0.5),
    )


@jax.jit
def causal(params, inputs, context=None):
    given, sources = block_causal.split(BLOCK, *inputs, context)
    v, _ = MODEL.apply({"params": params}, *given, self_context=sources)
    return v.reshape(inputs[0].shape)


@jax.jit
def whole(params, inputs, context=None):
    return MODEL.apply({"params": params}, *inputs, context)[0]


def test_a_block_depends_on_itself_and_the_earlier_ones_only(params):
    given = inputs()
    before = causal(params, given)
    for block in range(3):
        changed = given[0].at[:, :, block * BLOCK].add(1.0)
        moved = np.abs(causal(params, (changed, *given[1:])) - before).max(axis=(0, 1, 3, 4, 5))
        np.testing.assert_allclose(moved[: block * BLOCK], 0, atol=2e-6)
        assert (moved[block * BLOCK :] > 1e-3).all()


@pytest.mark.parametrize("with_context", [False, True])
def test_a_block_is_what_it_would_be_were_nothing_behind_it(params, with_context):
    """A prefix of blocks gives the same, and the first block is an ordinary window of its own."""
    given, rows = inputs(), context() if with_context else None
    want = causal(params, given, rows)

    def head(frames):
        latents, sigma, text, positions = given
        size = frames * TOKENS
        return latents[:, :, :frames], sigma[:, :, :frames], text, positions[:, :, :size]

    np.testing.assert_allclose(causal(params, head(4), rows), want[:, :, :4], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(
        whole(params, head(BLOCK), rows), want[:, :, :BLOCK], atol=1e-5, rtol=1e-5
    )
    assert np.abs(whole(params, given, rows) - want)[:, :, :BLOCK].max() > 1e-2
    if with_context:
        assert np.abs(causal(params, given) - want).max() > 1e-2


def test_one_sigma_for_all(params):
    latents, _, text, positions = inputs()
    one = causal(params, (latents, jnp.full((1, 1), 0.4), text, positions))
    each = causal(params, (latents, jnp.full((1, 1, FRAMES), 0.4), text, positions))
    np.testing.assert_allclose(one, each, atol=1e-6)
