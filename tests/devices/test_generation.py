"""Generation on a mesh is generation on one device: chunk by chunk from the same bank."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax import placement
from bvjax.chunking import ChunkGrid
from bvjax.denoiser.types import init_state
from bvjax.errors import UserError
from bvjax.generate import steps
from bvjax.generate.conditions import encode_captions
from bvjax.generate.rollout import rollout, stream
from bvjax.loading import bundle as bundles
from bvjax.memory import bank as kv_bank
from bvjax.placement import choose_layout, choose_mesh
from bvjax.sharding import make_layout

CHUNKS = 4
CASES = {
    "guided": (dict(memory={"capacity": 8}), dict(data=2, context=4)),
    "memory": (
        dict(memory={"capacity": 8}, guidance={"memory": 3.0}),
        dict(data=2, context=2, tensor=2),
    ),
    "fsdp": (
        dict(memory={"capacity": 8}, guidance={"bank": "two"}),
        dict(fsdp=2, context=2, tensor=2),
    ),
    "with": (
        dict(
            memory={"capacity": 8, "tau": 1.0},
            build={"context": "with", "probe": "full"},
            retrieval={"dense_recent": True},
            guidance={"scale": 1.0},
        ),
        dict(fsdp=4, tensor=2),
    ),
    "window": (
        dict(
            memory={"capacity": 8},
            guidance={"scale": 1.0},
            chunk={"first": "joined"},
            sampler={"causal_block": 1},
        ),
        dict(context=4, tensor=2),
    ),
}


@pytest.fixture(scope="module")
def conditions(tiny):
    bundle = bundles.load_bundle(tiny.weights)
    captions = tiny.captions[:CHUNKS]
    return encode_captions(lambda: tiny.params["text"], tiny.model.text, bundle.tokenizer, captions)


def close(a, b, within=1e-5):
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    np.testing.assert_allclose(a, b, atol=within * max(np.abs(b).max(), 1e-6), rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_each_chunk_from_the_same_bank(tiny, conditions, case):
    sections, sizes = CASES[case]
    model, layout = tiny.variant(**sections), make_layout(sizes)
    one, key = jax.device_put(tiny.params["dit"], jax.devices()[0]), jax.random.key(0)
    placed = jax.device_put(tiny.params["dit"], layout.parameters(tiny.params["dit"]))
    empty = init_state(model, layout)
    assert empty.bank.keys.addressable_shards[0].data.size * 8 // sizes.get("data", 1) == (
        empty.bank.keys.size
    )
    where = jax.tree.map(lambda x: x.sharding, empty)
    state, kept = init_state(model), []
    separate = model.chunk.first == "separate"
    for row, chunk_id in enumerate(range(int(separate), CHUNKS + separate)):
        given = steps.chunk_input(conditions, key, None, row, chunk_id)
        meshed = jax.device_put(jax.tree.map(np.array, state), where)  # a copy: writes donate
        alone = np.asarray(steps.denoise_program(one, model, state, given))
        together = steps.denoise_program(placed, model, meshed, given, layout=layout)
        close(together, alone)
        state, report = steps.write_program(one, model, state, given, alone)
        meshed, other = steps.write_program(placed, model, meshed, given, alone, layout=layout)
        kept.append(np.asarray(report.kept))
        np.testing.assert_array_equal(report.kept, other.kept)
        jax.tree.map(close, meshed.bank, state.bank)
        assert meshed.bank.keys.sharding.is_equivalent_to(empty.bank.keys.sharding, 6)
    tokens = ChunkGrid.of(model).tokens_per_chunk
    assert np.min(kept) < tokens or model.memory.tau == 1.0  # the choice was a real one


def test_whole_videos(tiny, conditions, capsys):
    sections, sizes = CASES["memory"]
    model, layout, key = tiny.variant(**sections), make_layout(sizes), jax.random.key(0)
    params = tiny.params["dit"]
    placed = jax.device_put(params, layout.parameters(params))
    alone = [p.latents for p in stream(params, model, conditions, key)]
    together = [
        np.asarray(p.latents) for p in stream(placed, model, conditions, key, layout=layout)
    ]
    error = max(np.abs(a - b).max() / np.abs(a).max() for a, b in zip(alone, together, strict=True))
    with capsys.disabled():
        print(f"\na video on {layout.mesh.size} devices is within {error:.1e} of one's")
    assert error < 1e-2
    scanned = rollout(placed, model, conditions, key, layout=layout)
    close(scanned.latents, np.stack(together[1:]), 1e-4)


@pytest.mark.parametrize("sizes", [dict(data=2, context=4), dict(fsdp=4, tensor=2)])
def test_only_the_tokens_of_a_chunk_must_divide(tiny, conditions, sizes):
    """Here 4 do and the 2 of the first frame, which all devices then work on, do not."""
    model = tiny.variant(
        memory={"capacity": 8}, chunk={"width": 16}, sampler={"steps": 1}, guidance={"bank": "two"}
    )
    grid, layout, key = ChunkGrid.of(model), choose_layout(model, sizes), jax.random.key(0)
    assert (grid.tokens_per_latent, grid.tokens_per_chunk) == (2, 4)
    assert layout.for_tokens(4) == layout and layout.for_tokens(2).size("context", "fsdp") == 1
    few = jax.tree.map(lambda x: x[:2] if x.shape[0] == CHUNKS else x, conditions)
    params = tiny.params["dit"]
    placed = jax.device_put(params, layout.parameters(params))
    alone = [p.latents for p in stream(params, model, few, key)]
    together = [p.latents for p in stream(placed, model, few, key, layout=layout)]
    for a, b in zip(together, alone, strict=True):
        close(a, b, 1e-3)


def test_a_bank_in_host_memory(tiny, conditions):
    layout, key = make_layout(dict(data=2, context=2, tensor=2)), jax.random.key(0)
    placed = jax.device_put(tiny.params["dit"], layout.parameters(tiny.params["dit"]))
    videos = {}
    for offload in ("none", "host"):
        memory = {"capacity": 8, "dtype": "int8", "offload": offload}
        model = tiny.variant(memory=memory, sampler={"steps": 2}, guidance={"bank": "two"})
        pieces = stream(placed, model, conditions, key, layout=layout)
        videos[offload] = [np.asarray(piece.latents) for piece in pieces]
    for a, b in zip(videos["host"], videos["none"], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_bundle_is_spread_over_the_devices(tiny, monkeypatch):
    monkeypatch.setattr(placement, "LARGE_LEAF", 64)
    bundle = bundles.load_bundle(tiny.weights)
    assert dict(bundle.layout.mesh.shape) == dict(data=2, fsdp=1, context=2, tensor=2)
    kernel = bundle.params["dit"]["blocks"]["ffn"]["0"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 2 == kernel.size
    kernel = bundle.params["vae"]["decoder"]["conv1"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 8 == kernel.size


@pytest.mark.parametrize("part", ["vae", "text"])
def test_small_leaves_stay_whole(tiny, part):
    leaves = jax.tree.leaves(bundles.load_bundle(tiny.weights).params[part])
    assert all(leaf.sharding.is_fully_replicated for leaf in leaves)


def test_meshes_that_do_not_fit_are_refused(tiny):
    model = tiny.variant(memory={"capacity": 8})
    narrow = tiny.variant(memory={"capacity": 8}, chunk={"width": 16})
    with pytest.raises(UserError, match="context=8 does not cut 4 tokens evenly"):
        choose_layout(narrow, dict(context=8))
    for sizes, text in (
        (dict(tensor=8), "tensor=8 does not cut 2 heads evenly"),
        (dict(data=4, tensor=2), "data=4: there are 2 branches"),
        (dict(context=3), "has 3 devices; there are 8"),
        (dict(model=8), "no axis 'model'"),
    ):
        with pytest.raises(UserError, match=text):
            choose_layout(model, sizes)
    assert choose_mesh(model, 8) == dict(data=2, context=4, tensor=1)
    assert choose_mesh(model, 7) is None
    assert choose_layout(model, None, jax.devices()[:7]).mesh is None
    assert jnp.zeros(()).devices() == {jax.devices()[0]}
    assert kv_bank.shard(kv_bank.init_bank(model, 1, jnp.float32), choose_layout(model)) is not None
