"""The text encoder against transformers' UMT5EncoderModel."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
import torch

from bvjax.nets.text import UMT5Encoder, relative_buckets
from tests.torch import builders
from tests.torch.builders import difference, size

REFERENCE, TOLERANCE = "transformers `UMT5EncoderModel`", 2e-5
CASES = {
    "buckets of umT5": (dict(), 200, (200, 129, 17, 1)),
    "few buckets": (dict(heads=3, layers=1, buckets=8, distance=20), 60, (60, 21, 2)),
    "many buckets": (dict(head_dim=9, buckets=64, distance=300, ffn_dim=7), 330, (330, 64)),
    "short": (dict(dim=20, heads=5, layers=3), 9, (9, 8, 1)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(theirs, our model, our function (ids, mask), length, lengths of the captions)."""
    config, length, lengths = CASES[request.param]
    theirs = builders.text_encoder(**config, seed=request.param)
    model, params = builders.ours(theirs, tmp_path_factory.mktemp("text"))
    apply = jax.jit(functools.partial(UMT5Encoder(model.text).apply, {"params": params}))
    return theirs, model.text, apply, length, lengths


def test_states(case, record_parity):
    """Of captions of several lengths at once; rows past a caption are zeros, as Wan pads them."""
    theirs, config, apply, length, lengths = case
    rng = np.random.default_rng(0)
    ids = rng.integers(0, config.vocab_size, (len(lengths), length)).astype(np.int32)
    mask = np.arange(length) < np.array(lengths)[:, None]
    ids[~mask] = 0
    out = theirs(torch.from_numpy(ids).long(), torch.from_numpy(mask).long()).last_hidden_state
    want = np.where(mask[..., None], out.numpy(), 0)
    assert size(want) > 1
    name = f"umT5, captions {'up to' if length <= 128 else 'longer than'} 128 tokens, with masks"
    record_parity(name, REFERENCE, difference(apply(ids, mask), want), TOLERANCE, size(want))
    if lengths[1] < length:  # the mask is felt
        whole = np.asarray(apply(ids, np.ones_like(mask)))
        assert difference(whole[1, : lengths[1]], want[1, : lengths[1]]) > 1e-2


def test_buckets(case, record_parity):
    theirs, config, _, length, _ = case
    attention = theirs.encoder.block[0].layer[0].SelfAttention
    offset = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    want = attention._relative_position_bucket(offset).numpy()
    ours = relative_buckets(length, config.num_buckets, config.max_distance)
    assert len(np.unique(want)) > config.num_buckets // 2 or length < 16
    record_parity("umT5, buckets of relative positions", REFERENCE, difference(ours, want), 0)
