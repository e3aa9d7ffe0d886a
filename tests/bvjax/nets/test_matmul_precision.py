"""bfloat16 products against float64 ones of the rounded inputs."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.nets import dit
from bvjax.nets.matmul_precision import _matmul, dense_matmul
from bvjax.presets import MINI


def rounded(x) -> np.ndarray:
    return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)


def test_a_product_and_its_gradients_are_those_of_rounded_inputs():
    rng = np.random.default_rng(0)
    x, kernel, cotangent = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((2, 5, 96), (96, 7), (2, 5, 7))
    )
    out, pullback = jax.vjp(_matmul, x, kernel)
    dx, dkernel = pullback(cotangent)
    assert {a.dtype.name for a in (out, dx, dkernel)} == {"float32"}
    np.testing.assert_allclose(out, rounded(x) @ rounded(kernel), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, rounded(cotangent) @ rounded(kernel).T, rtol=1e-5, atol=1e-5)
    expected = np.einsum("ija,ijb->ab", rounded(x), rounded(cotangent))
    np.testing.assert_allclose(dkernel, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(out - np.asarray(x, np.float64) @ np.asarray(kernel)).max() > 1e-3  # it rounds


@pytest.mark.slow
def test_a_dit_with_them_gives_nearly_the_same():
    assert dense_matmul("float32") is None
    config = dataclasses.replace(MINI.dit, dim=48, num_heads=2, num_layers=2, ffn_dim=96)
    params = dit.init_params(config, 8, jax.random.key(0))
    params = jax.tree.map(  # the head starts at zero
        lambda x: x + 0.02 * jax.random.normal(jax.random.key(x.size), x.shape), params
    )
    keys = jax.random.split(jax.random.key(1), 2)
    inputs = (
        jax.random.normal(keys[0], (1, 2, 2, 4, 4, 32)),
        jnp.full((1, 2), 0.5),
        jax.random.normal(keys[1], (1, 2, 6, 8)),
        jnp.zeros((1, 2, 8, 3), jnp.int32),
    )
    full, half = (
        dit.WanDiT(dataclasses.replace(config, matmul_precision=matmul_precision), 8).apply(
            {"params": params}, *inputs
        )[0]
        for matmul_precision in ("float32", "bfloat16")
    )
    error = np.abs(full - half)
    assert 0 < error.max() and error.mean() < 0.02 * np.abs(full).mean()
