"""Keys of (seed, purpose, counters)."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax import random
from bvjax.diffusion.noise import gaussian
from bvjax.random import ExampleKeys, fold_in_str, keys_of, purpose_key, shared_key


def _bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_name_is_folded_in_as_its_crc32():
    key = jax.random.key(3)
    names = ["noise", "probes", "base noise", "shuffle prefix"]
    assert max(zlib.crc32(name.encode()) for name in names) >= 2**31  # a top bit is legal
    for name in names:
        want = jax.random.fold_in(key, zlib.crc32(name.encode()))
        assert _bits(fold_in_str(key, name)) == _bits(want)


def test_checksum_is_the_same_in_every_process():
    assert _bits(fold_in_str(jax.random.key(0), "noise")) == (1747478164, 2027742425)


def test_seeds_purposes_counters_and_their_order_all_matter():
    keys = [
        purpose_key(jax.random.key(seed), name, *counters)
        for seed in (0, 1)
        for name in ("noise", "probes")
        for counters in ((), (1,), (2,), (1, 2), (2, 1))
    ]
    assert len({_bits(key) for key in keys}) == len(keys)


def test_traced_counter_is_the_same_key():
    key = jax.random.key(0)
    traced = jax.jit(lambda c: purpose_key(key, "noise", c))(7)
    assert _bits(traced) == _bits(purpose_key(key, "noise", 7))


DRAWS = {
    "uniform": lambda key, b: random.uniform(key, (b, 3), 2.0),
    "normal": lambda key, b: random.normal(key, (b, 3, 2)),
    "randint": lambda key, b: random.randint(key, (b,), 2, 9000),
    "bernoulli": lambda key, b: random.bernoulli(key, 0.5, (b, 64)),
    "categorical": lambda key, b: random.categorical(key, jnp.zeros(999), (b, 2)),
    "gaussian": lambda key, b: gaussian(key, b, (2, 3)),
    "several rows": lambda key, b: random.uniform(key, (2 * b, 3)).reshape(b, -1),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_an_example_draws_the_same_in_any_batch(draw):
    key = jax.random.key(4)
    whole = np.asarray(draw(ExampleKeys(key, jnp.arange(6)), 6))
    some = np.asarray(draw(ExampleKeys(key, jnp.array([4, 1])), 2))
    np.testing.assert_array_equal(some, whole[[4, 1]])
    assert len({row.tobytes() for row in whole}) == 6  # of their own


def test_a_single_key_draws_what_it_always_did():
    key = jax.random.key(5)
    np.testing.assert_array_equal(random.uniform(key, (4, 3)), jax.random.uniform(key, (4, 3)))
    np.testing.assert_array_equal(random.normal(key, (4, 3)), jax.random.normal(key, (4, 3)))
    logits = jnp.arange(3.0)
    np.testing.assert_array_equal(
        random.categorical(key, logits, (9,)), jax.random.categorical(key, logits, shape=(9,))
    )
    rows = [_bits(jax.random.fold_in(key, row)) for row in range(3)]
    assert [_bits(one) for one in keys_of(key, 3)] == rows


def test_purposes_of_examples_and_what_they_share():
    key = jax.random.key(6)
    keys = purpose_key(ExampleKeys(key, jnp.arange(2)), "noise", 3)
    assert _bits(shared_key(keys)) == _bits(purpose_key(key, "noise", 3)) == _bits(keys.shared)
    assert _bits(keys.each[1]) == _bits(jax.random.fold_in(purpose_key(key, "noise", 3), 1))
    drawn = random.categorical(keys, jnp.log(jnp.array([0.1, 0.9])), (2, 4000))
    assert abs(float(drawn.mean()) - 0.9) < 0.02
