"""What goes through a causal step in pieces is what goes through at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.nets.pieces import in_pieces, longest

SEEN: list[tuple[int, bool]] = []


def step(total, x, first):
    """Running sums; remembers how it was called."""
    SEEN.append((x.shape[1], first))
    sums = jnp.cumsum(x, axis=1) + (0.0 if first else total)
    return sums[:, -1:], sums


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("most", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("unit, units", [(1, 6), (4, 4)])
def test_sums(first, most, unit, units):
    SEEN.clear()
    x = jnp.arange(2.0 * (units * unit + first)).reshape(2, -1, 1)
    total = jnp.full((2, 1, 1), 7.0)
    run = lambda total, x: in_pieces(step, total, x, first, unit=unit, start=1, most=most)
    last, sums = jax.jit(run)(total, x)
    want = np.cumsum(np.asarray(x), axis=1) + (0.0 if first else 7.0)
    np.testing.assert_allclose(sums, want)
    np.testing.assert_allclose(last, want[:, -1:])
    if units + first <= most:
        assert SEEN == [(x.shape[1], first)]
    else:
        assert (1, True) in SEEN or not first
        assert max(n for n, begins in SEEN if not begins) <= most * unit


def test_longest():
    assert [longest(24, n) for n in (1, 5, 7, 23, 24, 99)] == [1, 4, 6, 12, 24, 24]
    assert longest(23, 5) == 1
