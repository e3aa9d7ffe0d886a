"""Attention against a slow loop in float64, at odd lengths and with rows that see nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels_pallas import attention as attention_module
from kernels_pallas import attention_gpu
from kernels_pallas.attention import attention as eager_attention
from tests.kernels_pallas import oracle

STATIC = ("scale", "return_lse", "last_count", "most_keys", "implementation")
attention = jax.jit(eager_attention, static_argnames=STATIC)
FORMS = ("xla", "mapped")
LEAD, HEADS, DIM = (2, 2), 3, 8


def draw(seed, n, s, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = [(*LEAD, rows, HEADS, DIM) for rows in (n, s, s)]
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def slow(q, k, v, mask, scale):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out, lse = np.zeros(q.shape), np.full(q.shape[:-1], -1e30)
    for at in np.ndindex(*LEAD):
        seen = np.flatnonzero(mask[at])
        if not len(seen):
            continue
        for n in range(q.shape[2]):
            for a in range(HEADS):
                weights = np.exp(scale * k[at][seen, a] @ q[at][n, a])
                out[at][n, a] = weights @ v[at][seen, a] / weights.sum()
                lse[at][n, a] = np.log(weights.sum())
    return out, lse


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n, s", [(5, 13), (1, 1)])
def test_equals_a_slow_loop_with_mask_length_and_scale(form, n, s):
    q, k, v = draw(0, n, s)
    mask = np.random.default_rng(1).random((*LEAD, s)) < 0.6
    mask[0, 0], mask[0, 1] = True, False
    out, lse = attention(q, k, v, kv_mask=jnp.asarray(mask), return_lse=True, implementation=form)
    want, want_lse = slow(q, k, v, mask, DIM**-0.5)
    np.testing.assert_allclose(out, want, atol=2e-6)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-5, atol=1e-5)

    length = np.array([[0, s], [s // 2, 1]])
    out = attention(q, k, v, kv_length=jnp.asarray(length), scale=0.3, implementation=form)
    prefix = np.arange(s) < length[..., None]
    np.testing.assert_allclose(out, slow(q, k, v, prefix, 0.3)[0], atol=2e-6)

    out = attention(q, k, v, kv_length=length, kv_mask=mask, implementation=form)
    np.testing.assert_allclose(out, slow(q, k, v, prefix & mask, DIM**-0.5)[0], atol=2e-6)


@pytest.mark.parametrize("form", FORMS)
def test_unseen_rows_get_no_gradient_and_nothing_is_nan(form):
    q, k, v = draw(2, 4, 6)
    mask = jnp.ones((*LEAD, 6), bool).at[0, 0].set(False).at[1, 1, 3:].set(False)

    def loss(q, k, v):
        out = attention(q, k, v, kv_mask=mask, implementation=form)
        return jnp.sum(out * jnp.sin(1.0 + jnp.arange(out.size).reshape(out.shape)))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert not np.any(gradient[0, 0])
    _, dk, dv = gradients
    assert not np.any(dk[1, 1, 3:]) and not np.any(dv[1, 1, 3:])
    assert np.any(dk[1, 1, :3]) and np.any(dv[1, 1, :3])


@pytest.mark.parametrize("form", FORMS)
def test_the_last_key_counts_as_so_many(form):
    q, k, v = draw(4, 3, 5)
    more = lambda x: jnp.concatenate([x, *[x[:, :, -1:]] * 3], axis=2)
    mask = jnp.ones((*LEAD, 5), bool).at[0, 0, 1].set(False).at[0, 1, 4].set(False)
    got = attention(q, k, v, kv_mask=mask, last_count=4, return_lse=True, implementation=form)
    want = slow(q, more(k), more(v), np.asarray(more(mask[..., None])[..., 0]), DIM**-0.5)
    np.testing.assert_allclose(got[0], want[0], atol=2e-6)
    np.testing.assert_allclose(got[1], want[1], atol=1e-5)
    repeated = attention_module._repeated(*(x[0] for x in (k, v)), jnp.array([5, 4]), None, 4)
    assert repeated[0].shape == (2, 8, HEADS, DIM) and repeated[2].tolist() == [8, 4]
    with pytest.raises(ValueError, match="last_count is 0"):
        attention(q, k, v, last_count=0)


def test_no_more_keys_are_multiplied_than_can_be_seen():
    """Of 9 keys at most 4 are seen: with gradients they give what the masked 9 give."""
    q, k, v = draw(5, 3, 9)
    mask = np.zeros((*LEAD, 9), bool)
    mask[0, 0, [1, 4, 8]], mask[0, 1, :4], mask[1, 0, 7] = True, True, True

    def loss(q, k, v, most):
        out = eager_attention(
            q, k, v, kv_mask=jnp.asarray(mask), most_keys=most, implementation="xla"
        )
        return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape)))

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)), static_argnums=3)
    want, got = (jax.tree.leaves(grad(q, k, v, most)) for most in (None, 4))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    widths = str(jax.make_jaxpr(grad, static_argnums=3)(q, k, v, 4))
    assert "f32[4,3,3,4]" in widths and "f32[4,3,3,9]" not in widths  # logits


def test_shards_of_odd_lengths_are_padded_for_cudnn():
    q, k, v = (x[0] for x in draw(6, 3, 5))
    padded = attention_gpu._even(q, k, v, None)
    assert [x.shape[1] for x in padded[:3]] == [4, 6, 6] and padded[3].tolist() == [5, 5]
    want = eager_attention(q, k, v, implementation="xla")
    got = eager_attention(*padded[:3], kv_length=padded[3], implementation="xla")
    np.testing.assert_allclose(got[:, :3], want, atol=2e-6)
    assert attention_gpu._even(q[:, :2], k[:, :4], v[:, :4], None)[3] is None


def test_forms_agree_on_gradients():
    args = draw(3, 5, 9)
    mask = jnp.arange(9) < jnp.array([[9, 4], [1, 7]])[..., None]

    def gradients(form):
        def loss(*args):
            return jnp.sum(attention(*args, kv_mask=mask, implementation=form) ** 2)

        return jax.jit(jax.grad(loss, (0, 1, 2)))(*args)

    for one, other in zip(gradients("xla"), gradients("mapped"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_inputs_have_a_float32_softmax(form):
    q, k, v = draw(4, 3, 301, jnp.bfloat16)
    out, lse = attention(q, k, v, return_lse=True, implementation=form)
    want, want_lse = slow(q, k, v, np.ones((*LEAD, 301), bool), DIM**-0.5)
    assert out.dtype == jnp.bfloat16 and lse.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(out, np.float64), want, atol=4e-3)
    # a bfloat16 log-sum-exp near 6 has steps of 0.03
    np.testing.assert_allclose(lse, want_lse, atol=5e-3)


@pytest.mark.parametrize("form", FORMS)
def test_order_of_rows_and_rows_past_the_length_change_nothing(form):
    q, k, v = draw(5, 4, 7)
    order = np.random.default_rng(6).permutation(7)
    one = attention(q, k, v, implementation=form)
    other = attention(q, k[:, :, order], v[:, :, order], implementation=form)
    np.testing.assert_allclose(one, other, atol=1e-6)
    pad = [(0, 0), (0, 0), (0, 5), (0, 0), (0, 0)]
    padded = [jnp.pad(x, pad, constant_values=9.0) for x in (k, v)]
    length = jnp.full(LEAD, 7)
    other = attention(q, *padded, kv_length=length, implementation=form)
    np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data())
def test_drawn_shapes(form, data):
    rows, n, s, heads = (data.draw(st.integers(1, top)) for top in (3, 9, 40, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    q, k, v = (jnp.asarray(rng.normal(size=(rows, x, heads, 8)), jnp.float32) for x in (n, s, s))
    length = rng.integers(0, s + 1, rows)
    mask = rng.random((rows, s)) < 0.7
    seen = mask & (np.arange(s) < length[:, None])
    out, lse = attention(
        q, k, v, kv_length=length, kv_mask=mask, scale=0.5, return_lse=True, implementation=form
    )
    want, want_lse = oracle.attention(q, k, v, seen, 0.5)
    np.testing.assert_allclose(out, want, atol=3e-6)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-5, atol=1e-5)


def test_unknown_implementation_is_refused_with_the_list():
    with pytest.raises(
        ValueError, match="'flash' is unknown; use one of auto, cudnn, mapped, splash"
    ):
        eager_attention(*draw(7, 1, 1), implementation="flash")
