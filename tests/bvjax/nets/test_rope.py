"""RoPE against complex numbers, and its relative-shift property."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.nets.rope import angles, apply_rope, rope_frequencies

THETA = 10000.0


def complex_oracle(x, positions, theta):
    """x as complex numbers times e^(i angle) in float64, one axis and dimension at a time."""
    half = x.shape[-1] // 2
    counts = (half - 2 * (half // 3), half // 3, half // 3)
    pairs = np.asarray(x, np.float64)
    number = pairs[..., 0::2] + 1j * pairs[..., 1::2]
    column = 0
    for axis, count in enumerate(counts):
        for j in range(count):
            phase = np.asarray(positions)[..., axis] * theta ** (-2.0 * j / (2 * count))
            number[..., column] *= np.exp(1j * phase)[..., None]
            column += 1
    out = np.empty(pairs.shape)
    out[..., 0::2], out[..., 1::2] = number.real, number.imag
    return out


@pytest.mark.parametrize("head_dim", [6, 16, 32, 128])
def test_equals_complex_rotation(head_dim):
    rng = np.random.default_rng(head_dim)
    x = jnp.asarray(rng.standard_normal((2, 5, 3, head_dim)), jnp.float32)
    positions = jnp.asarray(rng.integers(0, 400, (2, 5, 3)), jnp.int32)
    got = apply_rope(x, angles(positions, head_dim, THETA))
    # 400 rad in float32 is known to 1.5e-5, twice
    np.testing.assert_allclose(got, complex_oracle(x, positions, THETA), atol=2e-4)


def test_wan_splits_128_into_44_42_42():
    assert [2 * len(f) for f in rope_frequencies(128, THETA)] == [44, 42, 42]
    for frequency in rope_frequencies(128, THETA):
        assert frequency[0] == 1.0 and frequency.dtype == np.float64
        assert frequency[1] == pytest.approx(THETA ** (-1 / len(frequency)))


RNG = np.random.default_rng(0)
Q, K = (jnp.asarray(RNG.standard_normal((4, 1, 16)), jnp.float32) for _ in range(2))
AT_Q, AT_K = (jnp.asarray(RNG.integers(0, 20, (4, 3)), jnp.int32) for _ in range(2))


@jax.jit
def scores(base):
    rotated_q = apply_rope(Q, angles(AT_Q + base, 16, THETA))
    rotated_k = apply_rope(K, angles(AT_K + base, 16, THETA))
    return jnp.einsum("nak,mak->nm", rotated_q, rotated_k)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.integers(-30, 30), min_size=3, max_size=3))
def test_scores_depend_on_position_differences_only(shift):
    np.testing.assert_allclose(scores(np.int32(shift)), scores(np.zeros(3, np.int32)), atol=1e-4)


def test_every_axis_turns_something_and_bfloat16_comes_back():
    x = jnp.ones((1, 1, 32), jnp.bfloat16)
    for axis in range(3):
        at = jnp.zeros((1, 3), jnp.int32).at[0, axis].set(3)
        out = apply_rope(x, angles(at, 32, THETA))
        assert out.dtype == jnp.bfloat16
        # 6 / 5 / 5 pairs: only this axis' own block moves
        moved = np.flatnonzero(np.any(np.asarray(out != x).reshape(16, 2), axis=1))
        first, count = ((0, 6), (6, 5), (11, 5))[axis]
        assert first in moved and set(moved) <= set(range(first, first + count))


@pytest.mark.parametrize("head_dim", [4, 7])
def test_head_dim_without_room_for_three_axes_is_refused(head_dim):
    with pytest.raises(ValueError, match=f"head_dim is {head_dim}"):
        rope_frequencies(head_dim, THETA)
