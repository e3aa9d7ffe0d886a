"""Convolutions with fewer products against plain ones, in sizes that blocks do not divide."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.nets import fast_conv, vae_layers

_RNG = np.random.default_rng(3)


def draw(*shape):
    return jnp.asarray(_RNG.normal(size=shape), jnp.float32)


def conv_in_float64(x, kernel):
    """Valid in time, zero padded in space, tap by tap."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    frames, (h, w) = x.shape[1] - kernel.shape[0] + 1, x.shape[2:4]
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        x[:, t : t + frames, i : i + h, j : j + w] @ kernel[t, i, j]
        for t in range(kernel.shape[0])
        for i in range(3)
        for j in range(3)
    )


@pytest.mark.parametrize(
    "shape, block", [((2, 6, 4, 6), 1000), ((1, 5, 5, 7), 4), ((1, 4, 2, 9), 1), ((1, 9, 3, 1), 5)]
)
def test_conv_3x3x3(monkeypatch, shape, block):
    monkeypatch.setattr(fast_conv, "BLOCK", block)
    x, kernel = draw(*shape, 5), draw(3, 3, 3, 5, 4)
    want = conv_in_float64(x, kernel)
    for function in (fast_conv.conv_3x3x3, fast_conv.conv_few_outputs):
        np.testing.assert_allclose(jax.jit(function)(x, kernel), want, atol=3e-5)


@pytest.mark.parametrize("shape, block", [((2, 3, 4, 3), 1000), ((1, 2, 5, 7), 4)])
def test_doubled_conv(monkeypatch, shape, block):
    monkeypatch.setattr(fast_conv, "BLOCK", block)
    x, kernel = draw(*shape, 5), draw(3, 3, 5, 4)
    want = conv_in_float64(np.asarray(x).repeat(2, axis=2).repeat(2, axis=3), kernel[None])
    got = jax.jit(fast_conv.doubled_conv_3x3)(x, kernel)
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_winograd_is_taken_where_it_pays(unchecked_types, monkeypatch):
    taken = []
    for name in ("_winograd", "_few_outputs", "_conv_taps"):
        kept = lambda *args, name=name: taken.append(name)
        monkeypatch.setattr(vae_layers, name, kept)
    for features, outputs, frames, side in (
        (96, 96, 2, 32),
        (384, 96, 8, 16),
        (96, 95, 2, 32),
        (96, 96, 2, 31),
        (96, 96, 1, 64),
        (96, 3, 1, 4),
    ):
        x, kernel = (
            jax.ShapeDtypeStruct(shape, jnp.float32)
            for shape in ((1, frames + 2, side, side, features), (3, 3, 3, features, outputs))
        )
        vae_layers.conv_3d(x, kernel, impl="auto")
    assert taken == ["_winograd", "_winograd", *["_conv_taps"] * 3, "_few_outputs"]


def test_gradients_are_those_of_taps(monkeypatch):
    monkeypatch.setattr(vae_layers, "WINOGRAD_WIDTH", 2)
    monkeypatch.setattr(vae_layers, "WINOGRAD_POSITIONS", 1)
    x, kernel, cotangent = draw(1, 5, 4, 6, 3), draw(3, 3, 3, 3, 2), draw(1, 3, 4, 6, 2)

    def gradients(impl):
        run = lambda x, k: jnp.sum(vae_layers.conv_3d(x, k, impl=impl) * cotangent)
        return jax.jit(jax.grad(run, (0, 1)))(x, kernel)

    for a, b in zip(gradients("winograd"), gradients("3d"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
