"""Weights spread over devices generate what weights on one device do."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bvjax.generate import bundle as bundles
from bvjax.generate.conditions import encode_captions
from bvjax.generate.rollout import stream


def videos(tiny, monkeypatch, devices: int):
    monkeypatch.setattr(bundles, "LARGE_LEAF", 64)
    if devices == 1:
        monkeypatch.setattr(bundles, "sharding_rule", lambda: None)
    bundle = bundles.load_bundle(tiny.weights)
    params = bundle.params["dit"]
    captions = tiny.captions[:3]
    text = bundle.load_text(tiny.model.text)
    conditions = encode_captions(text, tiny.model.text, bundle.tokenizer, captions)
    pieces = stream(params, tiny.model, conditions, jax.random.key(0))
    return params, [piece.latents for piece in pieces]


def test_eight_devices_make_the_video_of_one(tiny, monkeypatch):
    with monkeypatch.context() as patch:
        params, spread = videos(tiny, patch, 8)
    kernel = params["blocks"]["ffn"]["0"]["kernel"]
    assert len(kernel.addressable_shards) == 8
    assert kernel.addressable_shards[0].data.size * 8 == kernel.size
    with monkeypatch.context() as patch:
        _, whole = videos(tiny, patch, 1)
    for a, b in zip(spread, whole, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize("part", ["dit", "vae", "text"])
def test_small_leaves_stay_whole(tiny, part):
    leaves = jax.tree.leaves(bundles.load_bundle(tiny.weights).params[part])
    assert all(leaf.sharding.is_fully_replicated for leaf in leaves)
