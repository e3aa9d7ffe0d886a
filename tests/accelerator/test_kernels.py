"""The kernels that `auto` takes on this machine, at full size, against their XLA twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas.importance import key_importance
from kernels_pallas.kv_gather import pack, write_rows
from kernels_pallas.platforms import platform_of

PLATFORM = platform_of(jax.devices()[0])
pytestmark = pytest.mark.skipif(
    PLATFORM == "cpu", reason=f"no accelerator: JAX {jax.__version__} finds a CPU only"
)
TOKENS, HEADS, DIM = 37440, 12, 128
LEAD, SLOTS, CAPACITY, ENTRIES = (2, 1), 4, 18944, 5
DTYPES = pytest.mark.parametrize("dtype", ["bfloat16", "float32"])


def both(fn, *args):
    """What `auto` and the twin make, and whether `auto` is a kernel."""
    programs = [
        jax.jit(lambda *args, form=form: fn(*args, implementation=form)).lower(*args).compile()
        for form in ("auto", "xla")
    ]
    kernel = any(name in programs[0].as_text() for name in ("tpu_custom_call", "gpu.triton"))
    return *(np.asarray(program(*args).astype(jnp.float32)) for program in programs), kernel


def normal(seed, dtype, *shape):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


@DTYPES
@pytest.mark.parametrize("probes, mask", [(TOKENS, False), (TOKENS, True), (1000, True)])
def test_scores(dtype, probes, mask):
    q, k = normal(0, dtype, 1, probes, HEADS, DIM), normal(1, dtype, 1, TOKENS, HEADS, DIM)
    visible = 1 + jnp.arange(probes) * (TOKENS // probes) if mask else None
    got, want, kernel = both(lambda q, k, **how: key_importance(q, k, visible, **how), q, k)
    assert kernel
    # Products of float32 may be made of fewer bits on an accelerator, by each in its own way.
    np.testing.assert_allclose(got, want, rtol=2e-3)
    np.testing.assert_allclose(got.sum(-1), probes * HEADS, rtol=1e-3)


@DTYPES
def test_write(dtype):
    bank = normal(0, dtype, *LEAD, SLOTS, CAPACITY, HEADS, DIM)
    x = normal(1, dtype, *LEAD, TOKENS, HEADS, DIM)
    index = jax.random.randint(jax.random.key(2), (*LEAD, CAPACITY), 0, TOKENS)
    index = index.at[0].set(jnp.sort(index[0]))  # as kept tokens are, and in any order
    length = jnp.array([[CAPACITY], [12345]], jnp.int32)
    for slot in (2, SLOTS):  # the second is none
        got, want, kernel = both(write_rows, bank, x, index, length, jnp.array([slot], jnp.int32))
        assert kernel
        np.testing.assert_array_equal(got, want)


@DTYPES
@pytest.mark.parametrize("turned", [False, True], ids=["plain", "turned"])
def test_pack(dtype, turned):
    parts = normal(0, dtype, *LEAD, SLOTS, CAPACITY, HEADS, DIM)
    lengths = jnp.array([[[1560, 0, CAPACITY, 7001, 12000]], [[1, 2, 3, 0, CAPACITY]]], jnp.int32)
    slots = jnp.array([[3, 1, 1, 0, 2]], jnp.int32)
    first, count = 1000, 3 * CAPACITY
    angles = None
    if turned:
        angles = 400 * jax.random.uniform(jax.random.key(1), (*LEAD, count, DIM // 2))

    def run(parts, lengths, slots, first, angles, **how):
        return pack(parts, lengths, slots, angles=angles, window=(first, count), **how)[0]

    got, want, kernel = both(run, parts, lengths, slots, jnp.int32(first), angles)
    assert kernel
    # Turned, a bfloat16 may round to its neighbour.
    step = 0 if not turned else {"bfloat16": 2**-7, "float32": 1e-5}[dtype]
    np.testing.assert_allclose(got, want, rtol=step, atol=2e-5 if turned else 0)
