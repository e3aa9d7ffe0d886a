"""Counted operations against sums by hand and against XLA's own count."""

import jax
import jax.numpy as jnp
import pytest

from bvjax import flops
from bvjax.nets.dit import Context, WanDiT, init_params
from bvjax.presets import get_preset


def test_products_in_loops_and_branches_count_as_often_as_they_run():
    def fn(x):
        x, _ = jax.lax.scan(lambda x, _: (x @ x, None), x, length=5)
        return jax.lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x, x)

    assert flops.count(fn, jax.ShapeDtypeStruct((8, 8), jnp.float32)).total() == 7 * 2 * 8**3


def test_a_convolution_as_xla_counts_it():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 9, 9, 6), (3, 3, 6, 4))]
    fn = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    xla = jax.jit(fn).lower(*shapes).compile().cost_analysis()["flops"]
    assert flops.count(fn, *shapes).total() == pytest.approx(xla, rel=0.01)


def test_wan_with_a_context_of_four_chunks_of_three_latents():
    """11.7 TFLOP of projections and 20.2 of attention, as worked out by hand from the sizes."""
    model = get_preset("wan-1.3b")
    dit, own, seen = model.dit, 4680, 18720
    struct = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype)
    params = jax.eval_shape(lambda k: init_params(dit, model.text.dim, k), jax.random.key(0))
    rows = struct(dit.num_layers, 1, 1, seen, dit.num_heads, dit.head_dim)
    length = struct(dit.num_layers, 1, 1, dtype=jnp.int32)
    args = struct(1, 1, 3, 60, 104, 16), struct(1, 1), struct(1, 1, 512, model.text.dim)
    positions = struct(1, 1, own, 3, dtype=jnp.int32)

    def run(params, latents, sigma, text, positions, keys, values, length):
        context = Context(keys=keys, values=values, length=length)
        net = WanDiT(dit, model.text.dim)
        return net.apply({"params": params}, latents, sigma, text, positions, context)[0]

    found = flops.count(run, params, *args, positions, rows, rows, length, part=flops.dit_part)
    d, f, layers = dit.dim, dit.ffn_dim, dit.num_layers
    text_rows = layers * 2 * 512 * d * 2 * d
    assert found["projections"] - text_rows == layers * 2 * own * d * (6 * d + 2 * f)
    assert found["self-attention"] == pytest.approx(layers * 4 * own * d * (own + seen), rel=0.02)
    assert found["cross-attention"] == pytest.approx(layers * 4 * own * d * 512, rel=0.02)
    assert found["projections"] / 1e12 == pytest.approx(11.7, abs=0.2)
    assert found["self-attention"] / 1e12 == pytest.approx(20.2, rel=0.02)
