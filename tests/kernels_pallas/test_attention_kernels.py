"""The accelerators' forms of attention, interpreted on the CPU, through the one entry.

Blocks are made small, so that small arrays have several of them, none of which fits.
"""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels_pallas import attention as entry
from kernels_pallas import attention_gpu, attention_tpu, attention_xla, platforms
from tests.kernels_pallas import oracle

KERNELS = ("splash", "cudnn", "triton")
HEADS, DIM = 2, 16
ROWS, QUERIES, KEYS = 3, 150, 300
LENGTHS = np.array([0, 130, KEYS])


@pytest.fixture(autouse=True)
def kernels_that_run_here(monkeypatch):
    """Splash and Triton interpreted; cuDNN's place taken by plain XLA, which gets only lengths."""
    monkeypatch.setattr(attention_tpu, "MAX_QUERIES", 128)
    monkeypatch.setattr(attention_tpu, "MAX_KEYS", 256)
    monkeypatch.setattr(attention_tpu, "MAX_COMPUTE", 128)
    monkeypatch.setattr(attention_gpu, "_BLOCK_Q", 16)

    def cudnn(q, k, v, length, scale, return_lse):
        assert length is None or length.dtype == jnp.int32
        return attention_xla.batched(q, k, v, length, None, scale, return_lse)

    monkeypatch.setattr(attention_gpu, "_cudnn", cudnn)
    for name, form in (("splash", attention_tpu.splash), ("triton", attention_gpu.triton)):
        monkeypatch.setitem(entry._RUN, name, functools.partial(form, interpret=True))


def draw(seed, rows=ROWS, n=QUERIES, s=KEYS, dim=DIM, dtype=jnp.bfloat16):
    rng = np.random.default_rng(seed)
    shapes = [(rows, count, HEADS, dim) for count in (n, s, s)]
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


@functools.partial(jax.jit, static_argnames=("form", "return_lse"))
def run(form, q, k, v, length=None, mask=None, return_lse=False):
    return entry.attention(
        q, k, v, kv_length=length, kv_mask=mask, return_lse=return_lse, implementation=form
    )


def seen_keys(length, mask, s=KEYS):
    seen = np.ones((ROWS if length is None else len(length), s), bool)
    seen = seen if length is None else seen & (np.arange(s) < np.asarray(length)[:, None])
    return seen if mask is None else seen & np.asarray(mask)


def check_forward(form, qkv, length, mask, seen):
    out, lse = run(form, *qkv, length, mask, return_lse=True)
    want, want_lse = oracle.attention(*qkv, seen, qkv[0].shape[-1] ** -0.5)
    assert out.dtype == qkv[2].dtype and lse.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(out, np.float64), want, atol=1.5e-2)
    # Splash gets q times the scale, rounded once more
    np.testing.assert_allclose(lse, want_lse, rtol=1e-5, atol=2e-2 if form == "splash" else 1e-5)
    return out


@pytest.mark.parametrize("form", KERNELS)
def test_ragged_lengths(form):
    qkv = draw(0)
    out = check_forward(form, qkv, jnp.asarray(LENGTHS), None, seen_keys(LENGTHS, None))
    assert not np.any(np.asarray(out[0], np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("form", KERNELS)
def test_gradients_under_a_mask(form):
    mask = np.random.default_rng(1).random((ROWS, KEYS)) < 0.4
    mask[1] = False
    dtype = jnp.float32 if form == "splash" else jnp.bfloat16
    qkv, (cotangent, *_) = draw(2, dtype=dtype), draw(3, dtype=dtype)

    def loss(*qkv):
        out = run(form, *qkv, None, jnp.asarray(mask))
        return jnp.sum(out.astype(jnp.float32) * cotangent)

    got = jax.grad(loss, (0, 1, 2))(*qkv)
    want = oracle.gradients(*qkv, mask, DIM**-0.5, cotangent)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == dtype
        atol = 2e-6 if form == "splash" else 2e-2
        np.testing.assert_allclose(np.asarray(one, np.float64), other, atol=atol)
        assert not np.any(np.asarray(one[1], np.float32))


@pytest.mark.parametrize("form", ("splash", "triton"))
def test_blocks_of_keys_past_the_length_are_not_visited(form):
    q, k, v = draw(4)
    length = jnp.array([0, 130, 256])  # of blocks of 256 and of 64
    poisoned = v.at[:, 256:].set(jnp.nan)
    np.testing.assert_array_equal(run(form, q, k, poisoned, length), run(form, q, k, v, length))


@pytest.mark.parametrize("form", ("cudnn", "triton"))
def test_float32_on_a_gpu_is_xla_and_the_log_says_so_once(form, caplog):
    platforms.say_once.cache_clear()
    qkv = draw(5, dtype=jnp.float32)
    with caplog.at_level(logging.INFO, logger="bvjax"):
        out, again = (entry.attention(*qkv, implementation=form) for _ in range(2))
    np.testing.assert_array_equal(out, entry.attention(*qkv, implementation="xla"))
    np.testing.assert_array_equal(out, again)
    assert [r.message for r in caplog.records].count(
        f"attention: xla in float32, which {form} does not multiply"
    ) == 1


@pytest.mark.parametrize("form", KERNELS)
def test_no_gradient_beside_the_log_sum_exp(form):
    q, k, v = draw(6)
    loss = lambda q: entry.attention(q, k, v, return_lse=True, implementation=form)[0].sum()
    with pytest.raises(ValueError, match="has a gradient in the forms mapped and xla only"):
        jax.grad(loss)(q)


SHAPES = [  # own tokens, keys: latents of 480x832, and what is behind them
    (1560, 34320),
    (4680, 4680),
    (4680, 32760),
    (37440, 37440),
    (37440, 132160),
    (9360, 132160),
    (37440, 512),
]


@pytest.mark.parametrize("n, s", SHAPES)
def test_padding_to_blocks_wastes_less_than_five_percent(n, s, monkeypatch):
    monkeypatch.undo()
    block_q = attention_tpu.query_block(n, attention_tpu.SUBLANES)
    block_kv = attention_tpu.key_block(s, attention_tpu.MAX_KEYS)
    assert block_q % attention_tpu.SUBLANES == 0 and block_kv % attention_tpu.LANES == 0
    assert block_kv % attention_tpu.compute_block(block_kv) == 0
    whole = -(-n // block_q) * block_q * -(-s // block_kv) * block_kv
    assert whole < 1.05 * n * s
    assert min(block_q, block_kv) >= 256  # not by taking the smallest blocks


@pytest.mark.slow
@pytest.mark.parametrize("form", KERNELS)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_drawn_shapes(form, data):
    rows, n, s = (data.draw(st.integers(1, top)) for top in (3, 40, 300))
    dim = data.draw(st.sampled_from((8, 24, 32, 128)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    length = rng.integers(0, s + 1, rows) if data.draw(st.booleans()) else None
    mask = rng.random((rows, s)) < rng.random() if data.draw(st.booleans()) else None
    seen = np.ones((rows, s), bool) & seen_keys(
        np.full(rows, s) if length is None else length, mask, s
    )
    check_forward(form, draw(0, rows, n, s, dim), length, mask, seen)
