"""The bodies of the TPU and GPU kernels, interpreted on the CPU, against their XLA twins.

Blocks are made small so that a few dozen rows are ragged over several of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from kernels_pallas import (
    importance,
    importance_gpu,
    importance_tpu,
    kv_gather,
    kv_gather_gpu,
    kv_gather_tpu,
)

pytestmark = pytest.mark.slow  # kernels are interpreted
SCORES = {"mosaic": importance_tpu, "triton": importance_gpu}
GATHER = {"mosaic": kv_gather_tpu, "triton": kv_gather_gpu}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
SIMULATED = pltpu.InterpretParams(uninitialized_memory="nan", detect_races=True)
few = settings(max_examples=6, deadline=None, derandomize=True)
kernels = pytest.mark.parametrize("kernel", ["mosaic", "triton"])


@pytest.fixture(autouse=True, scope="module")
def _small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        for module in SCORES.values():
            patch.setattr(module, "KEYS", 32)
            patch.setattr(module, "PROBES", 16)
        patch.setattr(importance_tpu, "LANES", 8)
        patch.setattr(kv_gather_gpu, "ROWS", 16)
        patch.setattr(kv_gather_tpu, "_block", lambda rows, heads, dtype: min(rows, 32))
        yield


def run(fn, *args):
    """Compiled as one program: most of the time here is compilation of small ones."""
    return jax.jit(fn)(*args)


def draw(rng, dtype, *shape):
    return jnp.asarray(rng.standard_normal(shape) * 3, DTYPES[dtype])


def check_scores(kernel, dtype, probes, keys, with_lse, seed):
    rng, (rows, heads, dim) = np.random.default_rng(seed), (2, 2, 16)
    q, k = draw(rng, dtype, rows, probes, heads, dim), draw(rng, dtype, rows, keys, heads, dim)
    visible = jnp.asarray(rng.integers(0, keys + 1, probes), jnp.int32)  # some see nothing
    visible = visible.at[0].set(keys)
    lse = None
    if with_lse:
        logits = jnp.einsum("rpak,rnak->rpan", q, k, preferred_element_type=jnp.float32) / 4
        seen = jnp.arange(keys) < visible[:, None]
        lse = jax.nn.logsumexp(jnp.where(seen[:, None], logits, -1e30), axis=-1)
    kernel = functools.partial(SCORES[kernel].key_importance, interpret=True)
    twin = functools.partial(importance.key_importance, implementation="xla")
    got, want = run(kernel, q, k, visible, lse), run(twin, q, k, visible)
    np.testing.assert_allclose(got, want, atol=2e-5)
    seeing = (visible > 0).sum() * heads
    np.testing.assert_allclose(got.sum(-1), seeing, rtol=1e-4)


@kernels
def test_scores(kernel):
    check_scores(kernel, "bfloat16", 37, 45, False, 0)


@pytest.mark.slow
@kernels
@few
@given(
    st.sampled_from(list(DTYPES)),
    st.sampled_from([1, 16, 37]),
    st.sampled_from([7, 32, 70]),
    st.booleans(),
    st.integers(0, 99),
)
def test_scores_of_any_shape(kernel, dtype, probes, keys, with_lse, seed):
    check_scores(kernel, dtype, probes, keys, with_lse, seed)


def check_write(kernel, dtype, rows, capacity, lengths, slot, seed, interpret=True):
    """One layer, three batch rows; indices drawn with repetition, in any order."""
    rng, (slots, heads, dim) = np.random.default_rng(seed), (2, 3, 128)
    bank = draw(rng, dtype, 3, slots, capacity, heads, dim)
    x = draw(rng, dtype, 3, rows, heads, dim)
    index = jnp.asarray(rng.integers(0, rows, (3, capacity)), jnp.int32)
    index = jnp.where(jnp.arange(3)[:, None] == 1, jnp.sort(index), index)
    length = jnp.asarray(np.minimum(lengths, capacity), jnp.int32)
    args = (bank, x, index, length, jnp.asarray(slot, jnp.int32))
    kernel = functools.partial(GATHER[kernel].write_rows, interpret=interpret)
    twin = functools.partial(kv_gather.write_rows, implementation="xla")
    got, want = run(kernel, *args), run(twin, *args)
    assert got.dtype == bank.dtype
    np.testing.assert_array_equal(got, want)


@kernels
def test_write(kernel):
    check_write(kernel, "bfloat16", 100, 70, [0, 70, 43], [1, 0, 2], 0)  # slot 2: dropped


@pytest.mark.slow
def test_write_on_a_simulated_tpu():
    """With memory that starts as NaN, and copies that run when they like."""
    check_write("mosaic", "float32", 100, 64, [0, 64, 43], [0, 1, 2], 1, SIMULATED)


@pytest.mark.slow
@kernels
@few
@given(
    st.sampled_from(list(DTYPES)),
    st.sampled_from([(7, 7), (40, 96), (100, 70)]),
    st.lists(st.sampled_from([0, 1, 31, 64, 96]), min_size=3, max_size=3),
    st.lists(st.integers(0, 2), min_size=3, max_size=3),
    st.integers(0, 99),
)
def test_write_of_any_shape(kernel, dtype, sizes, lengths, slot, seed):
    check_write(kernel, dtype, *sizes, lengths, slot, seed)


def check_pack(kernel, dtype, capacity, lengths, window, turned, seed, interpret=True):
    rng, (slots, heads, dim), entries = np.random.default_rng(seed), (3, 3, 128), 4
    parts = draw(rng, dtype, 2, slots, capacity, heads, dim)
    lengths = jnp.asarray(np.minimum(lengths, capacity), jnp.int32).reshape(2, entries)
    order = jnp.asarray(rng.integers(0, slots, (2, entries)), jnp.int32)  # slots twice
    first, count = window or (0, entries * capacity)
    angles = None
    if turned:
        angles = jnp.asarray(rng.uniform(-400, 400, (2, count, dim // 2)), jnp.float32)

    def twin(parts, lengths, order, angles):
        options = dict(angles=angles, window=window, implementation="xla")
        return kv_gather.pack(parts, lengths, order, **options)[0]

    def mosaic(parts, lengths, order, angles):
        return kv_gather_tpu.pack(parts, lengths, order, angles, first, count, interpret)

    def triton(parts, lengths, order, angles):
        entry, row, valid = kv_gather.packed_rows(lengths, first, count)
        source = jnp.take_along_axis(order, entry, -1) * capacity + row
        return kv_gather_gpu.pack(parts, jnp.where(valid, source, -1), angles, interpret)

    args = (parts, lengths, order, angles)
    got, want = run({"mosaic": mosaic, "triton": triton}[kernel], *args), run(twin, *args)
    assert got.dtype == parts.dtype and got.shape == want.shape
    # A fused multiply-add may round once less, so a bfloat16 may be its neighbour.
    step = 0 if not turned else {"float32": 1e-5, "bfloat16": 2**-7}[dtype]
    got, want = (np.asarray(x, np.float32) for x in (got, want))
    np.testing.assert_allclose(got, want, rtol=step, atol=2e-5 if turned else 0)
    if turned:
        assert np.mean(got != want) < {"float32": 0.9, "bfloat16": 0.01}[dtype]


RAGGED = [0, 40, 17, 1, 3, 0, 0, 40]


@kernels
def test_pack(kernel):
    check_pack(kernel, "bfloat16", 40, RAGGED, None, True, 0)


@pytest.mark.slow
def test_pack_on_a_simulated_tpu():
    check_pack("mosaic", "float32", 40, RAGGED, (23, 70), True, 0, SIMULATED)


@pytest.mark.slow
@kernels
@few
@given(
    st.sampled_from(list(DTYPES)),
    st.sampled_from([7, 32, 40]),
    st.lists(st.sampled_from([0, 1, 7, 31, 40]), min_size=8, max_size=8),
    st.sampled_from([None, (0, 20), (23, 70), (5, 64)]),
    st.booleans(),
    st.integers(0, 99),
)
def test_pack_of_any_shape(kernel, dtype, capacity, lengths, window, turned, seed):
    check_pack(kernel, dtype, capacity, lengths, window, turned, seed)


@pytest.mark.slow
def test_the_checks_can_fail(monkeypatch):
    """A rotation the wrong way round is seen; so is a row that is one off."""
    kernel = kv_gather_gpu.pack
    monkeypatch.setattr(
        kv_gather_gpu, "pack", lambda p, s, a, interpret: kernel(p, s, -a, interpret)
    )
    with pytest.raises(AssertionError):
        check_pack("triton", "float32", 7, [3] * 8, (0, 16), True, 0)
    monkeypatch.setattr(
        kv_gather_gpu, "pack", lambda p, s, a, interpret: kernel(p, s + 1, a, interpret)
    )
    with pytest.raises(AssertionError):
        check_pack("triton", "float32", 7, [3] * 8, (0, 16), False, 0)


@kernels
def test_pack_has_the_derivative_of_its_twin(kernel, monkeypatch):
    """Slots that two entries read, rows that are turned, and a window of them."""
    module, rng = GATHER[kernel], np.random.default_rng(4)
    monkeypatch.setattr(module, "pack", functools.partial(module.pack, interpret=True))
    parts, weights = draw(rng, "float32", 2, 4, 16, 2, 8), draw(rng, "float32", 2, 30, 2, 8)
    lengths = jnp.array([[9, 0, 16], [3, 16, 1]], jnp.int32)
    slots = jnp.array([[2, 0, 2], [1, 3, 0]], jnp.int32)
    angles = draw(rng, "float32", 2, 30, 4)

    def gradient(implementation):
        def scalar(parts, first):
            packed, _ = kv_gather.pack(
                parts, lengths, slots, angles=angles, window=(first, 30),
                implementation=implementation,
            )  # fmt: skip
            return jnp.sum(weights * packed)

        return run(jax.grad(scalar), parts, jnp.int32(4))

    got, want = gradient(kernel), gradient("xla")
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert np.any(want) and not np.array_equal(got, parts)
