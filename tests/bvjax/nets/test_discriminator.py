"""The critic: a generator that sees a whole window, and heads whose logits are of videos."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.chunking import ChunkGrid
from bvjax.config import ChunkConfig, DiTConfig, ModelConfig, TextConfig
from bvjax.errors import UserError
from bvjax.nets import discriminator, dit
from bvjax.nets.discriminator import DiscriminatorConfig
from tests.support.random_params import random_like

TEXT, DT, CHUNKS = 3, 8, 3
MODEL = ModelConfig(
    name="test",
    chunk=ChunkConfig(height=32, width=32, fps=2, frames=8),
    text=TextConfig(dim=DT, max_length=TEXT),
    dit=DiTConfig(dim=16, num_heads=2, num_layers=3, ffn_dim=16, freq_dim=8, similarity_keys=True),
)
CONFIG = DiscriminatorConfig(taps=(0, 2), registers=2, ffn_dim=24)


# Compiled once for each shape: op by op they would be compiled a hundred times.
LOGITS = jax.jit(discriminator.logits, static_argnums=(1, 2))
VELOCITY = jax.jit(discriminator.velocity, static_argnums=(1, 2))


@pytest.fixture(scope="module")
def generator():
    return random_like(
        jax.eval_shape(lambda k: dit.init_params(MODEL.dit, DT, k), jax.random.key(0)), 1
    )


@pytest.fixture(scope="module")
def fresh(generator):
    init = jax.jit(discriminator.init_params, static_argnums=(0, 1))
    return init(CONFIG, MODEL, generator, jax.random.key(2))


@pytest.fixture(scope="module")
def params(fresh):
    return {"trunk": fresh["trunk"], "heads": random_like(fresh["heads"], 3)}


def inputs(chunks=CHUNKS, batch=2, seed=4):
    keys = jax.random.split(jax.random.key(seed), 3)
    return (
        jax.random.normal(keys[0], (batch, chunks, 2, 4, 4, 16)),
        jax.random.uniform(keys[1], (batch,)),
        jax.random.normal(keys[2], (batch, chunks, TEXT, DT)),
    )


def generated(params, latents, sigma, text, config=MODEL.dit):
    """The generator's velocity of single chunks [b, l, h, w, z] without history."""
    positions = jnp.asarray(ChunkGrid.of(MODEL).positions(latents.shape[1]))[None, None]
    positions = jnp.broadcast_to(positions, (len(latents), 1, *positions.shape[2:]))
    out, _ = jax.jit(dit.WanDiT(config, DT).apply)(
        {"params": params}, latents[:, None], sigma[:, None], text[:, None], positions
    )
    return out[:, 0]


def test_of_one_chunk_the_trunk_is_the_generator(generator, params):
    latents, sigma, text = inputs(chunks=1)
    made = VELOCITY(params, CONFIG, MODEL, latents, sigma, text)
    expected = generated(generator, latents[:, 0], sigma, text[:, 0])
    np.testing.assert_allclose(made[:, 0], expected, atol=1e-5)


@pytest.mark.slow
def test_a_light_trunk_is_the_first_layers(generator):
    """So its hidden states are the generator's: read out by the generator's own head."""
    light = DiscriminatorConfig(taps=(0, 1), ffn_dim=24, layers=2)
    init = jax.jit(discriminator.init_params, static_argnums=(0, 1))
    params = init(light, MODEL, generator, jax.random.key(0))
    latents, sigma, text = inputs(chunks=1)
    made = VELOCITY(params, light, MODEL, latents, sigma, text)
    two = {**generator, "blocks": jax.tree.map(lambda x: x[:2], generator["blocks"])}
    config = dataclasses.replace(MODEL.dit, num_layers=2)
    expected = generated(two, latents[:, 0], sigma, text[:, 0], config)
    np.testing.assert_allclose(made[:, 0], expected, atol=1e-5)
    whole = generated(generator, latents[:, 0], sigma, text[:, 0])
    assert np.abs(made[:, 0] - whole).max() > 1e-2


def test_a_window_under_one_caption_is_one_long_chunk(generator, params):
    latents, sigma, text = inputs()
    text = jnp.broadcast_to(text[:, :1], text.shape)
    made = VELOCITY(params, CONFIG, MODEL, latents, sigma, text)
    long = latents.reshape(len(latents), -1, *latents.shape[3:])
    expected = generated(generator, long, sigma, text[:, 0])
    np.testing.assert_allclose(made.reshape(long.shape), expected, atol=1e-5)


def test_chunks_of_a_window_see_each_other_and_their_own_captions(params):
    latents, sigma, text = inputs()
    base = VELOCITY(params, CONFIG, MODEL, latents, sigma, text)
    for chunk in range(CHUNKS):  # the last reaches the first: there is no order
        moved = latents.at[:, chunk].add(1.0)
        other = VELOCITY(params, CONFIG, MODEL, moved, sigma, text)
        assert (np.abs(other - base).max(axis=(2, 3, 4, 5)) > 1e-4).all()
    swapped = text.at[:, jnp.array([0, 1])].set(text[:, jnp.array([1, 0])])
    other = VELOCITY(params, CONFIG, MODEL, latents, sigma, swapped)
    assert np.abs(other - base).max() > 1e-3


def test_a_fresh_critic_gives_every_video_the_logit_0_and_its_heads_can_learn(fresh):
    latents, sigma, text = inputs()
    np.testing.assert_array_equal(LOGITS(fresh, CONFIG, MODEL, latents, sigma, text), 0.0)
    grads = jax.grad(lambda p: LOGITS(p, CONFIG, MODEL, latents, sigma, text).sum())(fresh)
    assert np.any(grads["heads"]["head"]["2"]["kernel"])
    assert not any(np.any(g) for g in jax.tree.leaves(grads["trunk"]))


def test_logits_are_of_videos_and_depend_on_all_that_is_said_of_them(params):
    latents, sigma, text = inputs(batch=2)
    score = lambda *of: LOGITS(params, CONFIG, MODEL, *of)
    base = score(latents, sigma, text)
    assert base.shape == (2,) and abs(base[0] - base[1]) > 1e-4
    order = jnp.array([1, 0])
    np.testing.assert_allclose(
        score(latents[order], sigma[order], text[order]), base[order], atol=1e-5
    )
    for other in (
        (latents.at[:, 2].add(0.5), sigma, text),
        (latents, 0.5 * sigma, text),
        (latents, sigma, text.at[:, 2].add(1.0)),
    ):
        assert (np.abs(score(*other) - base) > 1e-5).all()


@pytest.mark.slow
def test_one_pass_gives_both(params):
    of = inputs()
    both = jax.jit(discriminator.logits_and_velocity, static_argnums=(1, 2))(
        params, CONFIG, MODEL, *of
    )
    np.testing.assert_allclose(both[0], LOGITS(params, CONFIG, MODEL, *of), atol=1e-5)
    np.testing.assert_allclose(both[1], VELOCITY(params, CONFIG, MODEL, *of), atol=1e-5)


@pytest.mark.slow
def test_the_gradient_of_the_video_is_that_of_finite_differences(params):
    latents, sigma, text = inputs()
    score = lambda x: LOGITS(params, CONFIG, MODEL, x, sigma, text).sum()
    gradient = jax.jit(jax.grad(score))(latents)
    direction = jax.random.normal(jax.random.key(8), latents.shape)
    step = 1e-2
    expected = (score(latents + step * direction) - score(latents - step * direction)) / (2 * step)
    np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=2e-2)


def test_registers_see_every_tap(params):
    """Without one tap's registers the logit is another."""
    of = inputs()
    base = LOGITS(params, CONFIG, MODEL, *of)
    assert params["heads"]["tap_0"]["registers"].shape == (2, 16)
    for tap in ("tap_0", "tap_1"):
        heads = {**params["heads"], tap: jax.tree.map(jnp.zeros_like, params["heads"][tap])}
        other = LOGITS({**params, "heads": heads}, CONFIG, MODEL, *of)
        assert (np.abs(other - base) > 1e-5).all()


@pytest.mark.slow
def test_what_the_backward_pass_recomputes_changes_nothing(params):
    of = inputs(batch=1)

    def gradient(remat):
        model = dataclasses.replace(MODEL, dit=dataclasses.replace(MODEL.dit, remat=remat))
        return jax.jit(jax.grad(lambda p: LOGITS(p, CONFIG, model, *of).sum()))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4),
        gradient("full"),
        gradient("none"),
    )


def test_the_copy_shares_no_buffer_with_the_generator(generator, fresh):
    """A step that reuses the buffers of both would hand the same one over twice."""
    theirs = {id(x) for x in jax.tree.leaves(generator)}
    assert not theirs & {id(x) for x in jax.tree.leaves(fresh)}
    np.testing.assert_array_equal(
        fresh["trunk"]["patch_embedding"]["kernel"], generator["patch_embedding"]["kernel"]
    )


def test_weights_of_another_critic_are_named(params):
    discriminator.check_params(CONFIG, MODEL, params)
    light = dataclasses.replace(CONFIG, taps=(0, 1), layers=2)
    with pytest.raises(UserError, match=r"critic's weights have trunk/blocks/.* of shape \(3, "):
        discriminator.check_params(light, MODEL, params)
    one = dataclasses.replace(CONFIG, taps=(2,))
    with pytest.raises(UserError, match="needs no such tensor|this critic needs"):
        discriminator.check_params(one, MODEL, params)
    with pytest.raises(UserError, match="generator's weights have .* of shape"):
        discriminator.init_params(CONFIG, MODEL, params["heads"], jax.random.key(0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"taps": ()}, r"taps is \(\); it must be ascending layers"),
        ({"taps": (2, 1)}, r"taps is \(2, 1\); it must be ascending"),
        ({"taps": (3,)}, "with a trunk of 3 layers they can be 0 to 2"),
        ({"taps": (0,), "layers": 4}, "layers is 4; it can be 1 to 3"),
        ({"taps": (2,), "layers": 2}, "with a trunk of 2 layers they can be 0 to 1"),
        ({"registers": 0}, "registers is 0; it must be 1 or more"),
        ({"layers": -1}, "layers is -1; it must be 0 or more"),
        ({"taps": (0,), "num_heads": 3}, "num_heads is 3; it must divide dit.dim = 16"),
    ],
)
def test_illegal_sizes_are_refused_in_one_sentence(fields, message):
    with pytest.raises(UserError, match=message):
        discriminator.trunk_config(DiscriminatorConfig(**fields), MODEL.dit)
