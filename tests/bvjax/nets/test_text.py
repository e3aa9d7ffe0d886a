"""The umT5 encoder against a slow loop, its masking rules and its size."""

from __future__ import annotations

import math

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import TextConfig
from bvjax.nets import text
from bvjax.presets import MINI

CFG = TextConfig(
    vocab_size=50, dim=12, num_layers=2, num_heads=3, head_dim=5, ffn_dim=20, max_length=24
)


@pytest.fixture(scope="module")
def fresh():
    return jax.jit(lambda key: text.init_params(CFG, key))(jax.random.key(0))


@pytest.fixture(scope="module")
def params(fresh):
    """Random everywhere: norm scales too, and position biases large enough to matter."""
    flat = flax.traverse_util.flatten_dict(fresh, sep="/")
    rng = np.random.default_rng(0)
    for name, x in flat.items():
        if name.endswith("scale"):
            flat[name] = jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32)
        if "pos_embedding" in name:
            flat[name] = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    return flax.traverse_util.unflatten_dict(flat, sep="/")


@pytest.fixture(scope="module")
def apply():
    return jax.jit(lambda params, *args: text.UMT5Encoder(CFG).apply({"params": params}, *args))


@pytest.fixture(scope="module")
def encode(params, apply):
    """Jitted encoder; each length compiles once for the whole file."""
    return lambda ids, mask: apply(params, ids, mask)


def tokens(length: int, valid: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(seed).integers(4, CFG.vocab_size, (1, length)).astype(np.int32)
    return ids, np.arange(length)[None] < valid


def bucket_by_loop(query: int, key: int) -> int:
    """The published rule for 32 buckets and distance 128, in exact integer arithmetic."""
    distance = abs(key - query)
    if distance < 8:
        bucket = distance
    else:  # 8 + floor(8 log(d/8) / log(16)): the largest b with (d/8)^8 >= 16^b = 2^(4b)
        bucket = 8
        while bucket < 15 and (distance**8) >= 8**8 * 2 ** (4 * (bucket - 7)):
            bucket += 1
    return bucket + (16 if key > query else 0)


def slow_encoder(params: dict, ids: np.ndarray, valid: int) -> np.ndarray:
    """One caption without its pads, token by token, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(x, scale):
        return np.array([row / math.sqrt(np.mean(row**2) + 1e-6) * scale for row in x])

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x = p["token_embedding"]["embedding"][ids[:valid]]
    for i in range(CFG.num_layers):
        block = jax.tree.map(lambda a, i=i: a[i], p["blocks"])
        y = norm(x, block["norm1"]["scale"])
        heads = []
        for a in range(CFG.num_heads):
            part = slice(a * CFG.head_dim, (a + 1) * CFG.head_dim)
            q, k, v = (y @ block["attn"][name]["kernel"][:, part] for name in "qkv")
            out = np.zeros_like(q)
            for m in range(valid):
                logits = [
                    q[m] @ k[n] + block["pos_embedding"]["embedding"][bucket_by_loop(m, n), a]
                    for n in range(valid)
                ]
                weights = np.exp(logits - np.max(logits))
                out[m] = (weights / weights.sum()) @ v
            heads.append(out)
        x = x + np.concatenate(heads, axis=1) @ block["attn"]["o"]["kernel"]
        y = norm(x, block["norm2"]["scale"])
        ffn = block["ffn"]
        hidden = gelu(y @ ffn["gate"]["kernel"]) * (y @ ffn["fc1"]["kernel"])
        x = x + hidden @ ffn["fc2"]["kernel"]
    return norm(x, p["norm"]["scale"])


def test_encoder_equals_the_slow_loop_and_pads_are_zero(params, encode):
    ids, mask = tokens(length=22, valid=19)
    states = np.asarray(encode(ids, mask))[0]
    np.testing.assert_allclose(states[:19], slow_encoder(params, ids[0], 19), atol=2e-5)
    assert np.all(states[19:] == 0)


def test_pads_change_nothing(encode):
    ids, mask = tokens(length=22, valid=9)
    states = np.asarray(encode(ids, mask))
    other = np.where(mask, ids, 7)
    np.testing.assert_array_equal(states, np.asarray(encode(other, mask)))
    short = np.asarray(encode(ids[:, :12], mask[:, :12]))
    np.testing.assert_allclose(states[:, :9], short[:, :9], atol=1e-5)


def test_every_token_sees_every_other(encode):
    ids, mask = tokens(length=12, valid=12)
    states = np.asarray(encode(ids, mask))
    for changed in (0, 11):
        other = ids.copy()
        other[0, changed] = 1
        difference = np.abs(np.asarray(encode(other, mask)) - states).max(axis=-1)
        assert np.all(difference > 1e-5)


def test_a_caption_without_tokens_gives_zeros(encode):
    ids, mask = tokens(length=12, valid=0)
    assert np.all(np.asarray(encode(ids, mask)) == 0)


def test_buckets():
    table = text.relative_buckets(300, 32, 128)
    expected = [[bucket_by_loop(q, k) for k in range(300)] for q in (0, 150, 299)]
    np.testing.assert_array_equal(table[[0, 150, 299]], expected)
    assert table.max() == 31
    # Where the published scheme moves to the next bucket.
    distances = (7, 8, 11, 12, 15, 16, 22, 23, 31, 32, 45, 46, 63, 64, 90, 91)
    buckets = [7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15]
    assert [table[d, 0] for d in distances] == buckets


@pytest.mark.parametrize(("config", "count"), [(TextConfig(), 5_680_910_336), (MINI.text, 788_096)])
def test_parameter_count(config, count):
    shapes = jax.eval_shape(lambda key: text.init_params(config, key), jax.random.key(0))
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == count


def test_names_are_those_of_the_docstring(fresh):
    flat = {k: x.shape for k, x in flax.traverse_util.flatten_dict(fresh, sep="/").items()}
    attention = {f"blocks/attn/{n}/kernel": (2, 12, 15) for n in "qkv"}
    assert flat == attention | {
        "token_embedding/embedding": (50, 12),
        "blocks/norm1/scale": (2, 12),
        "blocks/attn/o/kernel": (2, 15, 12),
        "blocks/pos_embedding/embedding": (2, 32, 3),
        "blocks/norm2/scale": (2, 12),
        "blocks/ffn/gate/kernel": (2, 12, 20),
        "blocks/ffn/fc1/kernel": (2, 12, 20),
        "blocks/ffn/fc2/kernel": (2, 20, 12),
        "norm/scale": (12,),
    }


def test_layers_start_different(fresh):
    kernel = fresh["blocks"]["attn"]["k"]["kernel"]
    assert not np.allclose(kernel[0], kernel[1])


def test_bfloat16_parameters_compute_in_bfloat16(params, apply, encode):
    ids, mask = tokens(length=12, valid=11)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    states = apply(half, ids, mask)
    assert states.dtype == jnp.bfloat16
    np.testing.assert_allclose(states.astype(jnp.float32), encode(ids, mask), atol=0.25)


def test_mean_embedding():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(3, 5, 4)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 1, 1, 1]], bool)
    mean = np.asarray(text.mean_embedding(jnp.asarray(states, jnp.bfloat16), mask))
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean[0], states[0, :3].mean(0), atol=0.01)
    np.testing.assert_array_equal(mean[1], 0)
    np.testing.assert_allclose(mean[2], states[2, [0, 2, 3, 4]].mean(0), atol=0.01)


def test_pooled_embedding():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(3, 5, 4)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 1, 1, 1]], bool)
    pooled = lambda pool: np.asarray(text.pooled_embedding(jnp.asarray(states), mask, pool))
    np.testing.assert_array_equal(pooled("mean"), text.mean_embedding(jnp.asarray(states), mask))
    np.testing.assert_array_equal(pooled("last"), [states[0, 2], np.zeros(4), states[2, 4]])
    rows = states[2, [0, 2, 3, 4]]
    np.testing.assert_array_equal(pooled("max"), [states[0, :3].max(0), np.zeros(4), rows.max(0)])
