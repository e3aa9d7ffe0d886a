"""The forms of attention of this machine, at full size, against XLA's in float32.

Queries do not see each other, so some of them are enough to compare.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas.attention import attention
from kernels_pallas.platforms import platform_of

PLATFORM = platform_of(jax.devices()[0])
pytestmark = pytest.mark.skipif(
    PLATFORM == "cpu", reason=f"no accelerator: JAX {jax.__version__} finds a CPU only"
)
FORMS = {"gpu": ("cudnn", "triton")}.get(PLATFORM, ("auto",))
CALLS = ("tpu_custom_call", "__cudnn$fmha", "gpu.triton")
HEADS, DIM = 12, 128
SHAPES = [  # own tokens and keys of 480x832: 1, 3 and 24 latents and their memory; text
    (1560, 34320),
    (4680, 32760),
    (37440, 132160),
    (37440, 512),
]
TRAINED = (4680, 14040)


def draw(rows, n, s):
    keys = jax.random.split(jax.random.key(n), 3)
    shapes = [(rows, count, HEADS, DIM) for count in (n, s, s)]
    return [
        jax.random.normal(key, shape, jnp.bfloat16) for key, shape in zip(keys, shapes, strict=True)
    ]


def wide(x):
    return np.asarray(x.astype(jnp.float32))


def exact(fn, *args):
    """`fn` of the form `xla` in float32, with products of all bits."""
    with jax.default_matmul_precision("highest"):
        return fn(*(x.astype(jnp.float32) for x in args), implementation="xla")


def run(form, *qkv, **options):
    program = (
        jax.jit(lambda q, k, v: attention(q, k, v, implementation=form, **options))
        .lower(*qkv)
        .compile()
    )
    assert any(call in program.as_text() for call in CALLS), "no kernel ran"
    return program(*qkv)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n, s", SHAPES)
def test_ragged_lengths_and_the_log_sum_exp(form, n, s):
    q, k, v = draw(3, n, s)
    length = jnp.array([0, s // 2 + 77, s], jnp.int32)
    out, lse = run(form, q, k, v, kv_length=length, return_lse=True)
    some = np.linspace(0, n - 1, 101).astype(int)
    want, want_lse = exact(
        lambda *qkv, **how: attention(*qkv, kv_length=length, return_lse=True, **how),
        q[:, some],
        k,
        v,
    )
    assert lse.dtype == jnp.float32 and out.dtype == jnp.bfloat16
    assert not wide(out)[0].any() and np.isfinite(wide(out)).all()
    np.testing.assert_allclose(wide(out)[:, some], want, atol=2e-2 * np.abs(want).max())
    np.testing.assert_allclose(lse[:, some], want_lse, rtol=1e-5, atol=2e-2)
    alone = run(form, q, k, v, kv_length=length)
    np.testing.assert_allclose(wide(alone), wide(out), atol=1e-2 * np.abs(want).max())


@pytest.mark.parametrize("form", FORMS)
def test_gradients_under_a_mask(form):
    n, s = TRAINED
    qkv = draw(2, n, s)
    mask = (jax.random.uniform(jax.random.key(0), (2, s)) < 0.5).at[1].set(False)
    cotangent = jax.random.normal(jax.random.key(1), qkv[0].shape)

    def gradients(*qkv, implementation):
        def loss(*qkv):
            out = attention(*qkv, kv_mask=mask, implementation=implementation)
            return jnp.sum(out.astype(jnp.float32) * cotangent)

        return jax.jit(jax.grad(loss, (0, 1, 2)))(*qkv)

    got = gradients(*qkv, implementation=form)
    for one, other in zip(got, exact(gradients, *qkv), strict=True):
        one, other = wide(one), np.asarray(other)
        assert not one[1].any()
        np.testing.assert_allclose(one, other, atol=3e-2 * np.abs(other).max())


def test_float32():
    q, k, v = (x.astype(jnp.float32) for x in draw(1, 1560, 9000))
    out = jax.jit(attention)(q, k, v)
    want = exact(attention, q, k, v)
    # Default products of float32 may be made of fewer bits.
    np.testing.assert_allclose(out, want, atol=2e-2 * float(jnp.abs(want).max()))
