"""The text encoder spread over devices: the same states, and each device holds its share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax import placement
from bvjax.generate.conditions import encode_captions
from bvjax.loading.bundle import load_bundle


@pytest.mark.parametrize("dtype, within", [("float32", 1e-5), ("bfloat16", 0.05)])
def test_states_of_a_sharded_encoder(tiny, tmp_path, monkeypatch, dtype, within):
    monkeypatch.setenv("BVJAX_TEXT_CACHE", str(tmp_path))
    monkeypatch.setattr(placement, "LARGE_LEAF", 64)
    config = tiny.variant(text={"dtype": dtype}).text
    bundle = load_bundle(tiny.weights)
    params = bundle.load_text(config)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    mine = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(params))
    assert mine < total / 4  # norms and small tables are whole on each
    assert params["token_embedding"]["embedding"].dtype == jnp.dtype(dtype)
    assert len(params["blocks"]["ffn"]["fc1"]["kernel"].sharding.device_set) == 8

    def make(load):
        cache = bundle.text_cache(config)
        return encode_captions(load, config, bundle.tokenizer, tiny.captions, cache=cache)

    spread = make(lambda: params)
    one = encode_captions(lambda: tiny.params["text"], config, bundle.tokenizer, tiny.captions)
    scale = np.abs(one.text).max()
    for field in ("text", "embedding", "null_text"):
        difference = np.abs(getattr(spread, field) - getattr(one, field)).max()
        assert difference <= within * scale, (field, difference)
    again = make(lambda: pytest.fail("the encoder is loaded"))
    jax.tree.map(np.testing.assert_array_equal, again, spread)
