"""What is added to Wan's DiT: place and frame rate, sharper heads, keys that tell similarity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import DiTConfig
from bvjax.errors import UserError
from bvjax.nets import dit

CFG = DiTConfig(
    dim=32, num_heads=2, num_layers=2, ffn_dim=48, freq_dim=16, in_channels=4, out_channels=4
)
FRAMES, SIDE, TEXT, DT = 2, 4, 3, 6


def random_params(config):
    shapes = jax.eval_shape(lambda key: dit.init_params(config, DT, key), jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        offset = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(offset + 0.3 * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def positions():
    t, h, w = np.meshgrid(np.arange(FRAMES), np.arange(2), np.arange(2), indexing="ij")
    return jnp.asarray(np.stack([t, h, w], -1).reshape(1, 1, -1, 3))


def velocity(config, latents, context=None, **kwargs):
    text = jax.random.normal(jax.random.key(1), (1, 1, TEXT, DT))
    model = dit.WanDiT(config, DT)
    inputs = latents, jnp.full((1, 1), 0.9), text, positions(), context
    return model.apply({"params": random_params(config)}, *inputs, **kwargs)[0]


@pytest.mark.slow
def test_without_a_spatial_position_embedding_equal_tokens_stay_equal():
    """RoPE is relative: what all tokens share cannot tell the sky from the ground."""
    flat = jnp.ones((1, 1, FRAMES, SIDE, SIDE, 4))
    out = velocity(CFG, flat)
    patches = np.asarray(out).reshape(FRAMES, 2, 2, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(FRAMES * 4, -1)
    np.testing.assert_allclose(patches, np.broadcast_to(patches[:1], patches.shape), atol=1e-5)
    placed = velocity(dataclasses.replace(CFG, spatial_position_embedding=True), flat)
    assert np.abs(placed[0, 0, 0, :2, :2] - placed[0, 0, 0, 2:, :2]).max() > 1e-2
    assert np.abs(placed[0, 0, 0, :2, :2] - placed[0, 0, 0, :2, 2:]).max() > 1e-2


def test_place_features_are_waves_of_height_and_width():
    features = dit.place_features(jnp.array([[0, 0], [3, 5]]))
    assert features.shape == (2, 24)
    np.testing.assert_array_equal(features[0], [1.0] * 6 + [0.0] * 6 + [1.0] * 6 + [0.0] * 6)
    np.testing.assert_allclose(features[1, 1], np.cos(1.5), rtol=1e-6)
    np.testing.assert_allclose(features[1, 12 + 6 + 2], np.sin(1.25), rtol=1e-6)


@pytest.mark.slow
def test_the_frame_rate_is_16_or_another_and_starts_without_effect():
    """Values against the reference are in the test of the golden files."""
    config = dataclasses.replace(CFG, fps_embedding=True)
    latents = jax.random.normal(jax.random.key(3), (1, 1, FRAMES, SIDE, SIDE, 4))
    at_16, at_24, at_30 = (velocity(config, latents, fps=fps) for fps in (16, 24, 30))
    assert np.abs(at_16 - at_24).max() > 1e-2
    np.testing.assert_array_equal(at_24, at_30)
    with pytest.raises(UserError, match="needs the frames per second"):
        velocity(config, latents)
    fresh = dit.init_params(config, DT, jax.random.key(0))
    assert fresh["fps_embedding"]["embedding"].shape == (2, CFG.dim)
    assert not np.any(fresh["fps_projection"]["2"]["kernel"])
    assert np.any(fresh["fps_projection"]["0"]["kernel"])


def test_qk_init_is_the_first_scale_of_the_queries():
    params = dit.init_params(dataclasses.replace(CFG, qk_init=2.0), DT, jax.random.key(0))
    for name in ("self_attn", "cross_attn"):
        assert (params["blocks"][name]["norm_q"]["scale"] == 2.0).all()
        assert (params["blocks"][name]["norm_k"]["scale"] == 1.0).all()


def context_rows(similarity):
    keys = jax.random.normal(jax.random.key(2), (2, 2, 1, 1, 4, 2, 16))
    shape = (2, 1, 1, 4)
    return dit.Context(
        keys=keys[0],
        values=keys[1],
        mask=jnp.ones(shape, bool),
        similarity=None if similarity is None else jnp.broadcast_to(jnp.array(similarity), shape),
    )


def test_similarity_adds_the_same_to_a_query_s_logit_of_every_row_of_an_entry():
    """Equal similarities change all logits of the context alike, zeros change nothing."""
    config = dataclasses.replace(CFG, similarity_keys=True)
    latents = jax.random.normal(jax.random.key(3), (1, 1, FRAMES, SIDE, SIDE, 4))
    zeros = velocity(config, latents, context_rows([0.0] * 4))
    ones, some = (velocity(config, latents, context_rows(s)) for s in ([1.0] * 4, [1.0, 1.0, 0, 0]))
    assert np.abs(ones - zeros).max() > 1e-3 and np.abs(some - ones).max() > 1e-3
    with pytest.raises(UserError, match="needs the similarity"):
        velocity(config, latents, context_rows(None))


def test_the_mean_state_of_a_caption_enters_the_modulation():
    """A model that is given `text_modulation` starts unchanged; zeros after a caption do not count."""
    config = dataclasses.replace(CFG, text_modulation=True)
    latents = jax.random.normal(jax.random.key(3), (1, 1, FRAMES, SIDE, SIDE, 4))
    text = jax.random.normal(jax.random.key(4), (1, 1, 5, DT)).at[:, :, 3:].set(0)
    np.testing.assert_allclose(
        dit.mean_state(text)[0, 0], np.asarray(text)[0, 0, :3].mean(0), rtol=1e-6
    )
    np.testing.assert_array_equal(dit.mean_state(jnp.zeros((1, 1, 2, 3))), 0)
    net = dit.WanDiT(config, DT)
    inputs = (latents, jnp.full((1, 1), 0.5), text, positions())
    params = random_params(config)
    kernel = params["text_modulation"]["kernel"]
    params["text_modulation"]["kernel"] = jnp.zeros_like(kernel)
    plain = {name: value for name, value in params.items() if name != "text_modulation"}
    before = dit.WanDiT(CFG, DT).apply({"params": plain}, *inputs)[0]
    np.testing.assert_array_equal(net.apply({"params": params}, *inputs)[0], before)
    params["text_modulation"]["kernel"] = kernel
    after = net.apply({"params": params}, *inputs)[0]
    assert np.abs(after - before).max() > 1e-3
    # Added to the time embedding: the same caption at that embedding plus its map.
    shift = dit.mean_state(text) @ params["text_modulation"]["kernel"]
    moved = {**plain, "time_embedding": {**plain["time_embedding"]}}
    last = dict(moved["time_embedding"]["2"])
    last["bias"] = last["bias"] + shift[0, 0]
    moved["time_embedding"]["2"] = last
    expected = dit.WanDiT(CFG, DT).apply({"params": moved}, *inputs)[0]
    np.testing.assert_allclose(after, expected, atol=1e-5)
