"""Windows of a self-rollout against generation, and their derivative against differences and against the plain form."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_step import CHUNKS, MODEL, examples, random_params
from jax.flatten_util import ravel_pytree

from bvjax.denoiser import denoise
from bvjax.denoiser.context import prepare_context
from bvjax.denoiser.encode import write_chunk
from bvjax.denoiser.types import ChunkInput, init_state
from bvjax.diffusion import solvers
from bvjax.errors import UserError
from bvjax.generate.conditions import Conditions
from bvjax.generate.rollout import rollout
from bvjax.losses.self_rollout import SelfRollout, Story

KEY = jax.random.key(7)
LAST = MODEL.sampler.steps - 1


@pytest.fixture(scope="module")
def params():
    return random_params()


@pytest.fixture(scope="module")
def story():
    example = examples(1)
    latents = jnp.asarray(example["latents"][0])
    return Story(
        text=jnp.asarray(example["text"][0]),
        embedding=jnp.asarray(example["embedding"][0]),
        anchor=latents[:1],
        chunks=latents[1:].reshape(CHUNKS, 1, 4, 4, 16),
    )


def roller(window, live=True, model=MODEL):
    null_text = np.zeros((model.text.max_length, model.text.dim), np.float32)
    return SelfRollout(model, null_text, window, live)


@pytest.fixture(scope="module")
def rolled():
    return roller(2)


@pytest.fixture(scope="module")
def step(rolled):
    return jax.jit(rolled.next_window)


@pytest.fixture(scope="module")
def pull_back(rolled):
    return jax.jit(rolled.pull_back)


@pytest.fixture(scope="module")
def generated(params, story):
    conditions = Conditions(story.text, story.embedding, jnp.zeros_like(story.text[:1]))
    return rollout(params, MODEL, conditions, KEY)


def test_a_live_rollout_is_what_generation_makes_window_after_window(
    params, rolled, step, story, generated
):
    """At the last exit step; two windows are the story, and then another begins.  One program serves all."""
    live, other = rolled.over(story), jax.tree.map(lambda x: x + 1, story)
    made = []
    for begins in (story, other):  # the second is not begun yet
        live, window = step(params, live, begins, KEY, jnp.int32(LAST), jnp.int32(0))
        made.append(window)
    np.testing.assert_allclose(
        np.concatenate([w.latents for w in made]), generated.latents, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(made[0].anchor.latents, generated.anchor, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([w.real for w in made]), story.chunks)
    assert made[0].anchor.fresh and not made[1].anchor.fresh and live.done == CHUNKS
    np.testing.assert_array_equal(made[1].anchor.latents, made[0].anchor.latents)
    live, window = step(params, live, other, KEY, jnp.int32(LAST), jnp.int32(0))
    assert window.anchor.fresh and live.done == 2
    np.testing.assert_array_equal(window.real, other.chunks[:2])
    assert step._cache_size() == 1
    assert np.abs(generated.latents[1] - generated.latents[0]).max() > 0.1


def test_chunks_before_the_window_are_what_generation_makes(params, rolled, step, story, generated):
    live, made = step(params, rolled.over(story), story, KEY, jnp.int32(LAST), jnp.int32(1))
    np.testing.assert_allclose(made.latents, generated.latents[1:3], rtol=1e-5, atol=1e-5)
    assert not made.anchor.fresh and live.done == 3
    # Also where the window is left at its first evaluation: what comes before it is not.
    _, early = step(params, rolled.over(story), story, KEY, jnp.int32(0), jnp.int32(1))
    np.testing.assert_allclose(early.anchor.latents, generated.anchor, rtol=1e-5, atol=1e-5)
    assert np.abs(early.latents - made.latents).max() > 0.1
    assert step._cache_size() == 1


def test_what_a_window_saw_stays_in_the_bank(params, rolled, step, story):
    """The second window evicts; the entries of all selections are still those that were selected."""
    live, _ = step(params, rolled.over(story), story, KEY, jnp.int32(LAST), jnp.int32(0))
    live, made = step(params, live, story, KEY, jnp.int32(LAST), jnp.int32(0))
    seen = made.selection
    held = np.asarray(live.bank.bank.chunk_id[0])[np.asarray(seen.index)]
    np.testing.assert_array_equal(held[seen.valid], np.asarray(seen.chunk_id)[seen.valid])
    in_place = np.asarray(live.bank.bank.chunk_id[0])[np.asarray(live.bank.place[0])]
    evicted = set(range(1, CHUNKS + 1)) - set(in_place.tolist())
    assert len(set(in_place)) == MODEL.memory.slots and len(evicted) == 1
    assert evicted < set(np.asarray(live.bank.bank.chunk_id[0]).tolist())


def weights_of(window):
    """Cotangents of a window's chunks and of the anchor."""
    return (
        jax.random.normal(jax.random.key(1), (window, 1, 4, 4, 16)),
        jax.random.normal(jax.random.key(2), (1, 4, 4, 16)),
    )


def plain_scalar(params, model, story, exit_step, start, window, through_entries=False):
    """The same window as one differentiable program, with constants where nothing is to flow."""
    constant = jax.lax.stop_gradient
    levels, labels = solvers.sigmas(model.sampler), solvers.timesteps(model.sampler) / 1000.0

    def inputs_of(row, chunk_id):
        null = jnp.zeros_like(story.text[0])
        return ChunkInput(jnp.int32(chunk_id), story.text[row], story.embedding[row], null, KEY)

    def sample(velocity, noise, inputs, last):
        x = noise
        for i in range(last):
            v = velocity(constant(params))(x, jnp.float32(labels[i]))
            key = denoise.solver_key(inputs)
            x = solvers.renoise_step(x, v, levels[i], levels[i + 1], key, i)
        return (x - levels[last] * velocity(params)(x, jnp.float32(labels[last])))[0]

    def finish(state, inputs, latents):
        if through_entries:
            return write_chunk(params, model, state, inputs, latents)[0]
        return constant(write_chunk(constant(params), model, state, inputs, constant(latents))[0])

    weights, anchor_weights = weights_of(window)
    inputs, state = inputs_of(0, 0), init_state(model)
    latents = sample(
        lambda p: denoise.anchor_velocity(p, model, inputs),
        denoise.noise_of_anchor(model, inputs),
        inputs,
        exit_step if start == 0 else LAST,
    )
    total = jnp.sum(anchor_weights * latents) if start == 0 else 0.0
    state = finish(state, inputs, latents)
    for row in range(start + window):
        inputs = inputs_of(row, row + 1)
        context = prepare_context(model, state, inputs, guided=True)
        latents = sample(
            lambda p, c=context, i=inputs: denoise.window_velocity(p, model, i, c),
            denoise.noise_of_chunk(model, inputs),
            inputs,
            exit_step if row >= start else LAST,
        )
        if row >= start:
            total += jnp.sum(weights[row - start] * latents)
        state = finish(state, inputs, latents)
    return total


@pytest.mark.slow
def test_the_derivative_is_that_of_the_plain_form(params, rolled, step, pull_back, story):
    """Also: with the derivative through the entries it would be another."""
    for exit_step, start in ((0, 1), (1, 0)):
        inputs = jnp.int32(exit_step), jnp.int32(start)
        live, made = step(params, rolled.over(story), story, KEY, *inputs)
        cotangent, of_anchor = weights_of(2)
        gradient = pull_back(params, live.bank, made, cotangent, of_anchor)
        scalar = lambda p, through: plain_scalar(p, MODEL, story, exit_step, start, 2, through)  # noqa: B023
        value, want = jax.jit(jax.value_and_grad(lambda p: scalar(p, False)))(params)  # noqa: B023
        total = jnp.sum(cotangent * made.latents)
        total += made.anchor.fresh * jnp.sum(of_anchor * made.anchor.latents)
        np.testing.assert_allclose(total, value, rtol=1e-4)
        size = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5 * size),  # noqa: B023
            gradient, want,
        )  # fmt: skip
    leaking = jax.jit(jax.grad(lambda p: scalar(p, True)))(params)
    differ = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), leaking, want)
    assert max(jax.tree.leaves(differ)) > 1e-2 * size


def test_the_derivative_of_a_window_is_the_difference_of_its_exit_evaluations(
    params, rolled, step, pull_back, story
):
    live, made = step(params, rolled.over(story), story, KEY, jnp.int32(1), jnp.int32(0))
    cotangent, of_anchor = weights_of(2)
    gradient, _ = ravel_pytree(pull_back(params, live.bank, made, cotangent, of_anchor))
    vector, unravel = ravel_pytree(params)

    @jax.jit
    def evaluate(vector):
        params = unravel(vector)
        one = lambda row: rolled.chunk_latents(params, live.bank, made, row)
        return jax.lax.map(one, jnp.arange(2)), rolled.anchor_latents(params, made)

    again, anchor = evaluate(vector)
    np.testing.assert_allclose(again, made.latents, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(anchor, made.anchor.latents, rtol=1e-5, atol=1e-5)
    step_size = 1e-2
    for seed in range(3):
        direction = jax.random.normal(jax.random.key(seed), vector.shape)
        direction /= jnp.linalg.norm(direction)
        ahead, behind = (
            [np.asarray(x, np.float64) for x in evaluate(vector + s * direction)]
            for s in (step_size, -step_size)
        )
        slope = [(a - b) / (2 * step_size) for a, b in zip(ahead, behind, strict=True)]
        want = np.sum(cotangent * slope[0]) + np.sum(of_anchor * slope[1])
        np.testing.assert_allclose(gradient @ direction, want, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"sampler": {"kind": "euler"}}, "sampler.kind is 'euler'; Self Forcing trains a few-step"),
        ({"chunk": {"first": "overlap"}}, "chunk.first='overlap' hands the end of each window"),
        ({"guidance": {"scale": 2.0, "bank": "two"}}, "guidance.bank='two' keeps a second bank"),
        ({"memory": {"offload": "host"}}, "memory.offload is 'host'; it must be none"),
        ({"retrieval": {"kind": "oracle"}}, "'oracle' needs scores that only an evaluation has"),
    ],
)
def test_what_cannot_be_rolled_out_is_refused(sections, message):
    changed = {k: dataclasses.replace(getattr(MODEL, k), **v) for k, v in sections.items()}
    with pytest.raises(UserError, match=message):
        roller(2, model=dataclasses.replace(MODEL, **changed))


def test_a_window_longer_than_the_story_is_refused(story):
    with pytest.raises(UserError, match="window is 5, but the stories have 4 chunks; it must be 1"):
        roller(5).over(story)
    with pytest.raises(UserError, match="self_forcing.window is 0; it must be 1 or more"):
        roller(0)
