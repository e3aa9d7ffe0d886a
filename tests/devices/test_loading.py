"""Weights go from the file straight to the devices that hold them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bvjax import weights
from bvjax.sharding import longest_axis_rule
from bvjax.weights import load_tensors, save_tensors


def layered():
    rng = np.random.default_rng(1)
    blocks = {"ffn": {"kernel": rng.normal(size=(3, 8, 16)).astype(np.float32)}}
    odd = rng.normal(size=(3, 7)).astype(np.float32)
    return {"blocks": blocks, "head": {"bias": rng.normal(size=16).astype(np.float32)}, "odd": odd}


def test_each_device_gets_its_shard_and_nothing_reads_the_whole(tmp_path, monkeypatch):
    params, read = layered(), []
    save_tensors(tmp_path / "w.safetensors", params, dtype="bfloat16")
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))
    plain = weights.TensorFile.read

    def spy(self, name, index=None):
        part = plain(self, name, index)
        read.append((name, part.size))
        return part

    monkeypatch.setattr(weights.TensorFile, "read", spy)
    like = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, params))
    loaded = load_tensors(
        tmp_path / "w.safetensors", like, dtype=None, sharding=longest_axis_rule(mesh)
    )
    assert loaded["head"]["bias"].dtype == jnp.bfloat16
    for leaf in (loaded["blocks"]["ffn"]["kernel"], loaded["head"]["bias"]):
        assert leaf.addressable_shards[0].data.size * jax.device_count() == leaf.size
    assert loaded["odd"].sharding.is_fully_replicated
    # a layer's kernel has 128 values: what one device holds of it is 16
    assert max(size for name, size in read if name != "odd") == 16
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)
