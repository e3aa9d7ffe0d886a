"""Keys of (seed, purpose, counters)."""

import zlib

import jax
import numpy as np

from bvjax.random import fold_in_str, purpose_key


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
