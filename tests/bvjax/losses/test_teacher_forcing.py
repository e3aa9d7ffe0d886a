"""Teacher forcing: no future leaks, and parallel training equals chunk-by-chunk generation through the bank."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import (
    BuildConfig,
    ChunkConfig,
    DiTConfig,
    MemoryConfig,
    ModelConfig,
    RetrievalConfig,
    RopeConfig,
    TextConfig,
)
from bvjax.denoiser.context import prepare_context
from bvjax.denoiser.denoise import window_velocity
from bvjax.denoiser.encode import write_chunk
from bvjax.denoiser.types import ChunkInput, init_state
from bvjax.errors import UserError
from bvjax.losses.block_forcing import BlockForcingConfig
from bvjax.losses.clip import make_clip
from bvjax.losses.history import (
    HistoryConfig,
    draw_history,
    draw_kinds,
    noise_history,
    revisiting,
)
from bvjax.losses.levels import LevelsConfig, level_weight
from bvjax.losses.teacher_forcing import ForcingConfig, TeacherForcing
from bvjax.memory.rules import RULES, number_of
from bvjax.random import purpose_key
from tests.support.random_params import random_dit

CHUNKS, TEXT, DIM = 5, 3, 8

MODEL = ModelConfig(
    name="test",
    chunk=ChunkConfig(height=32, width=32, fps=2, frames=8),
    text=TextConfig(dim=DIM, max_length=TEXT),
    dit=DiTConfig(dim=16, num_heads=2, num_layers=2, ffn_dim=16, freq_dim=8, similarity_keys=True),
    memory=MemoryConfig(slots=8, capacity=6, tau=0.8),
    build=BuildConfig(n_recent=2, n_random=2),
    retrieval=RetrievalConfig(num_recent=1, num_retrieved=1),
    rope=RopeConfig(mode="window"),
)

CLEAN = HistoryConfig({"semantic": 1}, anchor_drop=0, caption_drop=0, noise_chance=0)


def teacher(model=MODEL, history=CLEAN, **kwargs):
    forcing = ForcingConfig(history=history, targets_per_chunk=1, **kwargs)
    null = np.asarray(jax.random.normal(jax.random.key(9), (TEXT, DIM)))
    return TeacherForcing(model, forcing, null)


@pytest.fixture(scope="module")
def params():
    return random_dit(MODEL)


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(jax.random.key(2), 4)
    return {
        "latents": jax.random.normal(keys[0], (1, 1 + 2 * CHUNKS, 4, 4, 16)),
        "text": jax.random.normal(keys[1], (1, CHUNKS, TEXT, DIM)),
        "embedding": jax.random.normal(keys[2], (1, CHUNKS, DIM)),
        "relevance": jax.random.uniform(keys[3], (1, CHUNKS, CHUNKS)),
    }


def test_revisiting_chunks_are_drawn_more_often(batch):
    """Chunk 5 has to do with chunk 1 only, chunk 4 with chunk 3; one recent chunk is seen anyway."""
    relevance = np.zeros((1, CHUNKS, CHUNKS), np.float32)
    relevance[0, 4, 0], relevance[0, 3, 2], relevance[0, 3, 0] = 1.0, 1.0, 0.5
    relevance[0, 4, 4] = 9.0  # itself, which does not count
    found = revisiting(jnp.asarray(relevance), recent=1)
    assert np.flatnonzero(found[0]).tolist() == [4]
    made = teacher(revisit_fraction=0.5)
    forcing = dataclasses.replace(
        made, forcing=dataclasses.replace(made.forcing, targets_per_chunk=40)
    )
    clip = make_clip({**batch, "relevance": jnp.asarray(relevance)}, forcing.grid)
    target = np.asarray(forcing._targets(jax.random.key(0), clip)).reshape(40, CHUNKS)
    assert target[0].tolist() == [1, 2, 3, 4, 5]  # the first round has them all
    share = (target[1:] == CHUNKS).mean()
    assert 0.5 < share < 0.7  # a half, and a fifth of the other half
    clip = clip.replace(relevance=jnp.zeros_like(clip.relevance))  # nothing returns
    same = np.asarray(forcing._targets(jax.random.key(0), clip)).reshape(40, CHUNKS)
    assert (same == np.arange(1, CHUNKS + 1)).all()
    with pytest.raises(UserError, match="needs all chunks in order"):
        ForcingConfig(revisit_fraction=0.5, levels=LevelsConfig(role="progressive"))
    with pytest.raises(UserError, match="must lie in"):
        ForcingConfig(revisit_fraction=1.5)


@pytest.mark.slow
def test_similarity_is_part_of_the_context(params, batch):
    """With it a head can tell entries apart; the rows of another caption get another logit."""
    forcing = teacher()
    clip = make_clip(batch, forcing.grid)
    base = parallel_velocity(forcing, params, clip, jax.random.key(3))[0]
    silent = jax.tree.map(lambda x: x, params)
    key = silent["blocks"]["self_attn"].pop("similarity_key")
    assert key.shape == (2, 2, 8)
    silent["blocks"]["self_attn"]["similarity_key"] = jnp.zeros_like(key)
    other = parallel_velocity(forcing, silent, clip, jax.random.key(3))[0]
    np.testing.assert_array_equal(base[:, 0], other[:, 0])  # no history, no similarity
    assert np.abs(base[:, -1] - other[:, -1]).max() > 1e-3


def parallel_velocity(forcing, params, clip, key):
    """Velocity of every chunk at sigma 0.5 in one forward pass, with noise = 0.3."""
    target = jnp.arange(1, CHUNKS + 1)[None]
    history = draw_history(
        key,
        target,
        clip.embedding,
        clip.relevance,
        forcing.model.retrieval,
        forcing.forcing.history,
    )
    forward = forcing.forward
    entries = forward.entries(params, clip, history, forcing.forcing.history, key)
    context, start = forward.context(entries, history, target)
    noisy = 0.5 * clip.chunks + 0.5 * 0.3
    sigma = jnp.full((1, CHUNKS), 0.5)
    velocity = forward.velocity(params, noisy, sigma, clip.text, context, start)
    return velocity, entries.keep, history


def chunk_by_chunk(model, params, clip, key, keep):
    """The same through the bank: write a chunk, then look back from the next."""
    state = init_state(model)
    anchor = ChunkInput(
        jnp.int32(0), clip.text[0, 0], clip.embedding[0, 0], jnp.zeros((TEXT, DIM)), key
    )
    write = jax.jit(write_chunk, static_argnames="model")
    state, _ = write(params, model, state, anchor, clip.anchor[0, 0])
    out = []

    @jax.jit
    def velocity(state, inputs, noisy):
        seen = prepare_context(model, state, inputs, guided=True)
        fn = window_velocity(params, model, inputs, seen)
        return fn(noisy[None], jnp.float32(0.5))[0]

    for c in range(1, CHUNKS + 1):
        inputs = anchor.replace(
            chunk_id=jnp.int32(c), text=clip.text[0, c - 1], embedding=clip.embedding[0, c - 1]
        )
        out.append(velocity(state, inputs, 0.5 * clip.chunks[0, c - 1] + 0.5 * 0.3))
        state, report = write(params, model, state, inputs, clip.chunks[0, c - 1])
        np.testing.assert_array_equal(report.kept, keep[:, 0, c - 1].sum(-1))
    return jnp.stack(out)


@pytest.mark.parametrize(
    ("build", "mode", "dense"),
    [
        pytest.param("none", "window", False, marks=pytest.mark.slow),
        pytest.param("with", "absolute", False, marks=pytest.mark.slow),
        pytest.param("none", "window", True, marks=pytest.mark.slow),
        ("with", "absolute", True),
    ],
)
def test_parallel_equals_chunk_by_chunk_through_the_bank(params, batch, build, mode, dense):
    """Full probing makes the keep sets deterministic; capacity and tau still drop tokens.

    With `dense` the recent chunk is read whole, the retrieved one as the bank keeps it.
    """
    model = dataclasses.replace(
        MODEL,
        build=BuildConfig(context=build, probe="full"),
        memory=dataclasses.replace(MODEL.memory, capacity=8 if dense else 6, tau=0.8),
        retrieval=dataclasses.replace(MODEL.retrieval, dense_recent=dense),
        guidance=dataclasses.replace(MODEL.guidance, scale=1.0),
        rope=RopeConfig(mode=mode),
    )
    forcing = teacher(model)
    clip, key = make_clip(batch, forcing.grid), jax.random.key(5)
    velocity, keep, _ = jax.jit(lambda p, c: parallel_velocity(forcing, p, c, key))(params, clip)
    assert 0 < keep.mean() < 1  # something is dropped, or the test says little
    want = chunk_by_chunk(model, params, clip, key, keep)
    np.testing.assert_allclose(velocity[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", ["none", pytest.param("with", marks=pytest.mark.slow)])
def test_no_future_leaks(params, batch, build):
    """The loss of chunk i has no gradient in any later chunk, and has one in its own history."""
    model = dataclasses.replace(MODEL, build=dataclasses.replace(MODEL.build, context=build))
    forcing = teacher(model)
    clip, key = make_clip(batch, forcing.grid), jax.random.key(6)

    def output(chunks, i):
        velocity = parallel_velocity(forcing, params, clip.replace(chunks=chunks), key)[0]
        return jnp.sum(jnp.sin(velocity[:, i]))

    gradient = jax.jit(jax.grad(output))
    for i in range(CHUNKS):
        size = np.abs(gradient(clip.chunks, i)).max(axis=(0, 2, 3, 4, 5))
        assert not size[i + 1 :].any()
        assert size[i] > 0
        if i:
            assert size[i - 1] > 0  # the recent chunk is always seen


def test_history_is_causal_and_follows_its_kind():
    keys = jax.random.split(jax.random.key(3), 2)
    embedding = jax.random.normal(keys[0], (2, 9, DIM))
    relevance = jax.random.uniform(keys[1], (2, 9, 9))
    target = jnp.broadcast_to(jnp.arange(1, 10), (2, 9))
    config = RetrievalConfig(num_recent=2, num_retrieved=2)
    for kind in RULES:
        number = jnp.full(target.shape, number_of(kind))
        h = draw_history(
            keys[0], target, embedding, relevance, config, HistoryConfig(anchor_drop=0), number
        )
        assert (np.where(h.valid, h.index + 1, 0) < np.asarray(target)[..., None]).all()
        counts = np.asarray(h.valid.sum(-1))[0]
        if kind == "none":
            assert not counts.any() and not h.anchor.any()
            continue
        assert counts.tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 4]
        assert h.anchor.all()
        assert h.index[0, 8, 2:].tolist() == [6, 7]  # {c-2, c-1}, 0-based
        chosen = set(h.index[0, 8, :2].tolist())
        if kind == "rolling":
            assert chosen == {4, 5}
        if kind == "oracle":
            assert chosen == set(np.argsort(relevance[0, 8, :6])[-2:].tolist())
        if kind == "semantic":
            e = embedding[0] / jnp.linalg.norm(embedding[0], axis=-1, keepdims=True)
            assert chosen == set(np.argsort(e[:6] @ e[8])[-2:].tolist())


def test_kinds_are_drawn_with_their_chances():
    history = HistoryConfig({"semantic": 3, "oracle": 1})
    kinds = np.asarray(draw_kinds(jax.random.key(0), history, (4000,)))
    share = np.bincount(kinds, minlength=5) / 4000
    np.testing.assert_allclose(share, [0.75, 0, 0.25, 0, 0], atol=0.03)


def test_history_noise_says_its_sigma():
    latents = jnp.ones((3, 40, 2, 2, 2, 4))
    history = HistoryConfig(noise_chance=0.5, noise_max=0.2)
    noised, sigma = noise_history(jax.random.key(0), latents, history)
    sigma, spread = np.asarray(sigma), np.asarray(noised.std(axis=(2, 3, 4, 5)))
    assert ((sigma >= 0) & (sigma <= 0.2)).all()
    assert 0.3 < (sigma == 0).mean() < 0.7
    np.testing.assert_array_equal(spread == 0, sigma == 0)
    np.testing.assert_allclose(spread[sigma > 0] / sigma[sigma > 0], 1.0, atol=0.5)


@pytest.mark.parametrize(
    "schedule, target",
    [("cosine", "blend"), ("naive", "fm")],
)
@pytest.mark.slow
def test_the_loss_trains_every_parameter(params, batch, schedule, target):
    """Finite, and every tensor gets a gradient (both passes, text, time and modulation included)."""
    forcing = TeacherForcing(
        MODEL,
        ForcingConfig(
            block=BlockForcingConfig(target=target),
            levels=LevelsConfig(schedule=schedule),
            targets_per_chunk=2,
        ),
        teacher().null_text,
    )
    clip = make_clip(batch, forcing.grid)
    step = jax.jit(jax.value_and_grad(lambda p, k: forcing.loss(p, clip, k), has_aux=True))
    (loss, metrics), grads = step(params, jax.random.key(7))
    assert np.isfinite(loss)
    assert all(np.isfinite(v) for v in metrics.values())
    assert all(np.any(g) for g in jax.tree.leaves(grads))
    if target == "fm":
        np.testing.assert_allclose(metrics["block"], metrics["flow"], rtol=1e-6)


@pytest.mark.slow
def test_without_history_no_bank_is_made_and_the_loss_is_the_same(params, batch):
    """A chance too small to ever be drawn takes the long way: a bank of which nothing is shown."""
    never = dataclasses.replace(CLEAN, chances={"none": 1.0})
    hardly = dataclasses.replace(never, chances={"none": 1.0, "semantic": 1e-30})
    assert (never.never, hardly.never) == (True, False)
    losses = []
    for history in (never, hardly):
        forcing = teacher(history=history)
        clip = make_clip(batch, forcing.grid)
        losses.append(jax.jit(forcing.loss)(params, clip, jax.random.key(7)))
    (short, short_metrics), (long, long_metrics) = losses
    np.testing.assert_allclose(short, long, rtol=1e-5)
    assert short_metrics.keys() == long_metrics.keys()


@pytest.mark.slow
def test_frames_are_single_latents_of_the_later_half_with_the_caption_that_stands_alone(
    params, batch
):
    """What must not be read is NaN: earlier latents and chunks' own captions (or, at chance 0, the others)."""
    nan = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), batch["text"])
    latents = batch["latents"].at[:, 1::2].set(jnp.nan)  # two latents a chunk: the first of each
    for chance, text, standalone in ((1.0, nan, batch["text"]), (0.0, batch["text"], nan)):
        forcing = ForcingConfig(
            history=CLEAN,
            targets_per_chunk=0,
            frames=8,
            standalone=chance,
            anchor_weight=0.5,
            frames_weight=2.0,
        )
        teach = TeacherForcing(MODEL, forcing, teacher().null_text)
        given = dict(batch, latents=latents, text=text, standalone=standalone)
        clip = make_clip(given, teach.grid)
        loss, metrics = jax.jit(teach.loss)(params, clip, jax.random.key(3))
        assert set(metrics) == {"anchor", "frames"}
        np.testing.assert_allclose(
            loss, 0.5 * metrics["anchor"] + 2.0 * metrics["frames"], rtol=1e-6
        )
        assert np.isfinite(loss)


@pytest.mark.slow
def test_only_targets_without_history_get_the_caption_that_stands_alone(params, batch):
    given = dict(batch, standalone=jnp.full_like(batch["text"], jnp.nan))
    clip = make_clip(given, teacher().grid)

    def flow(**chances):
        history = dataclasses.replace(CLEAN, chances=chances)
        teach = teacher(history=history, standalone=1.0, anchor_weight=0.0)
        return jax.jit(teach.loss)(params, clip, jax.random.key(3))[1]["flow"]

    assert np.isfinite(flow(semantic=1.0, none=0.0))
    assert np.isnan(flow(semantic=0.0, none=1.0))


def test_even_levels_weigh_what_the_linear_guess_leaves():
    """By Monte Carlo, level by level: the guess's error times the weight is 1."""
    std = (1.0, 0.3, 0.1)
    rng = np.random.default_rng(0)
    start, noise = rng.standard_normal((2, 200_000, 3)) * [[std], [(1, 1, 1)]]
    for sigma in (0.0, 0.05, 0.3, 0.7, 1.0):
        noisy, velocity = (1 - sigma) * start + sigma * noise, noise - start
        slope = (noisy * velocity).mean(0) / (noisy**2).mean(0)
        left = np.square(velocity - slope * noisy).mean()
        weight = level_weight("even", jnp.float32(sigma)[None], std)
        np.testing.assert_allclose(left * weight, 1.0, rtol=0.02)
    np.testing.assert_array_equal(level_weight("velocity", jnp.arange(3.0), std), np.ones(3))


@pytest.mark.slow
def test_even_levels_reach_all_parts_of_the_loss(params, batch):
    """A network that gives just the linear guess has the loss 1 per part, whatever the levels."""
    std = tuple(np.linspace(0.1, 1.0, 16).tolist())
    config = dataclasses.replace(MODEL.dit, preconditioning="linear", latent_std=std)
    latents = jax.random.normal(jax.random.key(4), (1, 1 + 2 * CHUNKS, 4, 4, 16)) * jnp.array(std)
    silent = params | {"head": jax.tree.map(jnp.zeros_like, params["head"])}
    levels = LevelsConfig(schedule="naive", weighting="even")
    forcing = ForcingConfig(
        block=BlockForcingConfig(target="fm"),
        history=CLEAN,
        levels=levels,
        targets_per_chunk=8,
        frames=64,
        anchor_weight=0.0,
    )
    teach = TeacherForcing(dataclasses.replace(MODEL, dit=config), forcing, teacher().null_text)
    clip = make_clip(dict(batch, latents=latents, standalone=batch["text"]), teach.grid)
    loss, metrics = jax.jit(teach.loss)(silent, clip, jax.random.key(3))
    np.testing.assert_allclose(metrics["frames"], 1.0, rtol=0.1)
    np.testing.assert_allclose(loss - metrics["frames"], 1.0, rtol=0.1)
    assert metrics["flow"] != loss - metrics["frames"]  # logged as it is


@pytest.mark.parametrize("name", ["label", "context_noise"])
def test_a_clean_pass_that_is_not_clean_is_refused(name):
    build = dataclasses.replace(MODEL.build, **{name: 0.1})
    with pytest.raises(UserError, match=f"build.{name} is 0.1; it must be 0 here"):
        teacher(dataclasses.replace(MODEL, build=build))


def test_nothing_to_train_is_refused():
    with pytest.raises(UserError, match="levels.weighting is 'odd'; it can be velocity, even"):
        LevelsConfig(weighting="odd")
    with pytest.raises(UserError, match="must be >= 0 and not all zero"):
        ForcingConfig(targets_per_chunk=0, frames=0)
    with pytest.raises(UserError, match="frames is 7; it must be a multiple of 4"):
        ForcingConfig(frames=7)


def test_other_layouts_are_refused(batch):
    forcing = teacher()
    joined = dataclasses.replace(MODEL, chunk=dataclasses.replace(MODEL.chunk, first="joined"))
    with pytest.raises(UserError, match="separate"):
        make_clip(batch, teacher(joined).grid)
    with pytest.raises(UserError, match="1 \\+ a multiple of 2"):
        make_clip({**batch, "latents": batch["latents"][:, :-1]}, forcing.grid)


def test_keys_are_by_purpose():
    a, b = (jax.random.key_data(purpose_key(jax.random.key(0), p)) for p in ("kind", "random"))
    assert (a != b).any()
