"""The critic on a mesh of eight devices is the critic on one."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bvjax.config import ChunkConfig, DiTConfig, ModelConfig, TextConfig
from bvjax.nets import discriminator, dit
from bvjax.nets.discriminator import DiscriminatorConfig
from bvjax.sharding import ONE_DEVICE, make_layout

MODEL = ModelConfig(
    name="test",
    chunk=ChunkConfig(height=32, width=32, fps=2, frames=16),
    text=TextConfig(dim=8, max_length=3),
    dit=DiTConfig(dim=32, num_heads=4, num_layers=2, ffn_dim=32, freq_dim=8),
)
CONFIG = DiscriminatorConfig(taps=(0, 1), ffn_dim=24)


def critic(key):
    generator = dit.init_params(MODEL.dit, MODEL.text.dim, key)
    params = discriminator.init_params(CONFIG, MODEL, generator, key)
    fill = lambda path, x: x + 0.1 * jax.random.normal(jax.random.fold_in(key, x.size), x.shape)
    return jax.tree_util.tree_map_with_path(fill, params)


def outputs(params, latents, sigma, text, layout):
    """Logits and velocity, and the gradient of the logits with respect to the video and to the parameters."""

    def score(params, latents):
        return discriminator.logits(
            params, CONFIG, MODEL, latents, sigma, text, layout=layout
        ).sum()

    both = discriminator.logits_and_velocity(
        params, CONFIG, MODEL, latents, sigma, text, layout=layout
    )
    return both, jax.grad(score, argnums=(0, 1))(params, latents)


@pytest.mark.parametrize(
    "sizes", [dict(data=2, context=2, tensor=2), dict(data=2, fsdp=2, context=2)], ids=str
)
def test_mesh_and_one_device_agree(sizes):
    key, layout = jax.random.key(0), make_layout(sizes)
    params = jax.jit(critic)(key)
    latents = jax.random.normal(key, (2, 2, 4, 4, 4, 16))
    inputs = latents, jax.random.uniform(key, (2,)), jax.random.normal(key, (2, 2, 3, 8))
    expected = jax.jit(outputs, static_argnums=4)(params, *inputs, ONE_DEVICE)
    placed = jax.device_put(params, layout.parameters(params))
    heads = [leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(placed["heads"])]
    assert all(heads) == ("fsdp" not in sizes)  # only fsdp cuts them
    got = jax.jit(outputs, static_argnums=4)(placed, *inputs, layout)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * max(1e-3, np.abs(b).max())),
        got,
        expected,
    )
