"""Rollout and stream agree and compile once, whatever the length; causes have effects."""

import dataclasses

import jax
import numpy as np
import pytest

from bvjax.denoiser import denoise, encode
from bvjax.denoiser.denoise import denoise_anchor, denoise_chunk
from bvjax.errors import UserError
from bvjax.generate import rollout as rollouts
from bvjax.generate import steps
from bvjax.generate.conditions import Conditions
from bvjax.generate.rollout import rollout, stream

KEY = jax.random.key(7)


def make_conditions(model, num_chunks, seed=0):
    rng = np.random.default_rng(seed)
    rows = (num_chunks, model.text.max_length, model.text.dim)
    text = rng.normal(size=(rows[0] + 1, *rows[1:])).astype(np.float32)
    text[:, 20:] = 0  # pads
    return Conditions(text=text[:-1], embedding=text[:-1].mean(1), null_text=text[-1:])


def edit(conditions, row):
    """The conditions with another caption in one row."""
    other = make_conditions_like(conditions)
    text, embedding = conditions.text.copy(), conditions.embedding.copy()
    text[row], embedding[row] = other.text[row], other.embedding[row]
    return conditions.replace(text=text, embedding=embedding)


def make_conditions_like(conditions):
    rng = np.random.default_rng(99)
    text = rng.normal(size=conditions.text.shape).astype(np.float32)
    return conditions.replace(text=text, embedding=text.mean(1))


@pytest.fixture(scope="module")
def world(tiny):
    """The tiny model under a name of its own, so that this module alone compiles it."""
    model = dataclasses.replace(tiny.model, name="rollout-test")
    return model, tiny.params["dit"]


@pytest.fixture(scope="module")
def videos(world):
    """Streams of 3, 15 and 75 chunks, and how often solver and keep set were traced for them."""
    model, params = world
    counts = {"solve": 0, "keep_of_layers": 0}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in (("solve", denoise), ("keep_of_layers", encode)):
            original = getattr(module, name)

            def counted(*args, name=name, original=original):
                counts[name] += 1
                return original(*args)

            patch.setattr(module, name, counted)
        made = {}
        for length in (3, 15, 75):
            conditions = make_conditions(model, length)
            made[length] = list(stream(params, model, conditions, KEY))
    return made, counts


def test_compiles_the_first_frame_once_and_the_chunk_once(videos):
    _, counts = videos
    assert counts == {"solve": 2, "keep_of_layers": 2}


def test_pieces(world, videos):
    model, _ = world
    pieces = videos[0][15]
    assert [p.chunk_id for p in pieces] == list(range(16)) and all(p.fresh for p in pieces)
    assert pieces[0].latents.shape == (1, 4, 4, 16) and pieces[1].latents.shape == (2, 4, 4, 16)
    for piece in pieces:
        assert piece.latents.dtype == np.float32 and np.isfinite(piece.latents).all()
    report = pieces[-1].report
    assert report.chunk_id[0] == 0 and report.chunk_id.tolist()[-2:] == [13, 14]
    assert 0 < report.chunk_id[1] < 13
    assert np.all(report.kept <= model.memory.capacity) and np.all(report.kept >= 1)
    assert np.all(report.requested >= report.kept)
    assert pieces[0].report.kept.tolist() == [4, 4]  # the anchor is kept whole


def test_long_stories_outlive_the_slots(world, videos):
    model, _ = world
    pieces = videos[0][75]
    seen = {int(c) for c in pieces[-1].report.chunk_id}
    assert {0, 73, 74} <= seen  # the anchor stays and the recent ones are there
    spread = [np.abs(p.latents).mean() for p in pieces]
    assert np.isfinite(spread).all() and max(spread) < 10


def test_scan_equals_stream(world, videos):
    model, params = world
    whole = rollout(params, model, make_conditions(model, 3), KEY)
    pieces = videos[0][3]
    np.testing.assert_array_equal(whole.anchor, pieces[0].latents)
    for latents, piece in zip(whole.latents, pieces[1:], strict=True):
        np.testing.assert_array_equal(latents, piece.latents)
    for row, piece in enumerate(pieces[1:]):
        jax.tree.map(
            lambda a, b, r=row: np.testing.assert_array_equal(a[r], b), whole.report, piece.report
        )


def test_a_caption_changes_its_chunk_and_later_ones_only(world, videos):
    model, params = world
    before = videos[0][3]
    after = list(stream(params, model, edit(make_conditions(model, 3), 1), KEY))
    for old, new in zip(before[:2], after[:2], strict=True):
        np.testing.assert_array_equal(old.latents, new.latents)
    for old, new in zip(before[2:], after[2:], strict=True):
        assert np.abs(old.latents - new.latents).max() > 1e-3


def test_seed_and_null_text_matter(world, videos):
    model, params = world
    conditions = make_conditions(model, 3)
    other_seed = next(iter(stream(params, model, conditions, jax.random.key(8))))
    assert np.abs(other_seed.latents - videos[0][3][0].latents).max() > 1e-2
    silent = conditions.replace(null_text=conditions.null_text * 0)
    other_null = next(iter(stream(params, model, silent, KEY)))
    assert np.abs(other_null.latents - videos[0][3][0].latents).max() > 1e-3


def test_chunks_do_not_depend_on_how_many_follow(world, videos):
    model, params = world
    conditions = make_conditions(model, 15)
    first = conditions.replace(text=conditions.text[:3], embedding=conditions.embedding[:3])
    for short, long in zip(stream(params, model, first, KEY), videos[0][15], strict=False):
        np.testing.assert_array_equal(short.latents, long.latents)


def test_image_is_the_guidance_latent(world, videos):
    model, params = world
    image = np.random.default_rng(3).normal(size=(1, 4, 4, 16)).astype(np.float32)
    conditions = make_conditions(model, 3)
    pieces = list(stream(params, model, conditions, KEY, image_latent=image))
    np.testing.assert_array_equal(pieces[0].latents, image)
    assert np.abs(pieces[1].latents - videos[0][3][1].latents).max() > 1e-3


def test_oracle_scores_choose(world):
    model, params = world
    model = dataclasses.replace(
        model, retrieval=dataclasses.replace(model.retrieval, kind="oracle")
    )
    scores = np.zeros((5, 6), np.float32)
    scores[4, 2] = 1.0  # chunk 5 wants chunk 2
    latents = {c: np.ones((1 if c == 0 else 2, 4, 4, 16), np.float32) for c in range(6)}
    conditions = make_conditions(model, 5)
    with pytest.MonkeyPatch.context() as patch:
        reports = []
        commit = steps.write_program

        def record(*args, **options):
            state, report = commit(*args, **options)
            reports.append(report)
            return state, report

        patch.setattr(steps, "write_program", record)
        rollouts.rebuild_bank(params, model, conditions, KEY, latents, oracle=scores)
    assert reports[-1].chunk_id.tolist() == [0, 2, 3, 4]
    assert reports[-2].chunk_id.tolist() == [0, 1, 2, 3]


def test_guidance_of_one_skips_the_null_branch(world):
    model, params = world
    given = jax.eval_shape(
        lambda: steps.chunk_input(make_conditions(model, 1), KEY, None, 0, 1).replace(key=KEY)
    )
    counts = []
    for scale in (1.0, 2.0):
        guided = dataclasses.replace(
            model, guidance=dataclasses.replace(model.guidance, scale=scale)
        )
        program = jax.make_jaxpr(lambda g, m=guided: denoise_anchor(params, m, g))(given)
        counts.append(str(program).count("dot_general"))
    assert counts[1] > 1.5 * counts[0]


def guided(model, **changes):
    return dataclasses.replace(model, guidance=dataclasses.replace(model.guidance, **changes))


def test_memory_guidance_is_of_chunks_that_retrieved_something(world, videos):
    """Chunks 1 to 3 have only the anchor and the recent ones; from chunk 4 on something is retrieved."""
    model, params = world
    pieces = stream(params, guided(model, memory=4.0), make_conditions(model, 15), KEY)
    for number, (piece, plain) in enumerate(zip(pieces, videos[0][15][:6], strict=False)):
        found = piece.report.valid[1] & (piece.report.chunk_id[1] > 0)
        assert found == (number > model.retrieval.num_recent + 1)
        same = np.allclose(piece.latents, plain.latents, rtol=1e-4, atol=1e-5)
        assert same == (number <= model.retrieval.num_recent + 1)


@pytest.mark.slow
def test_memory_guidance_takes_the_difference_that_retrieval_makes(world, videos):
    """By hand, in one Euler step: v_null + scale (v - v_null), the null branch with l = 0."""
    model, params = world
    conditions, latents = make_conditions(model, 4), [p.latents for p in videos[0][15][:4]]
    model = dataclasses.replace(model, rope=dataclasses.replace(model.rope, mode="absolute"))
    state = rollouts.rebuild_bank(params, model, conditions, KEY, dict(enumerate(latents)))
    given = steps.chunk_input(conditions, KEY, None, 3, 4)
    one_step = dataclasses.replace(
        model, sampler=dataclasses.replace(model.sampler, kind="euler", steps=1)
    )

    def made(retrieval_l=None, text=conditions.text[3], **changes):
        config = guided(one_step, **changes)
        if retrieval_l is not None:
            retrieval = dataclasses.replace(config.retrieval, num_retrieved=retrieval_l)
            config = dataclasses.replace(config, retrieval=retrieval)
        step = jax.jit(denoise_chunk, static_argnums=1)
        return np.asarray(step(params, config, state, given.replace(text=text)))

    null = made(retrieval_l=0, text=conditions.null_text[0], scale=1.0)
    want = null + 4.0 * (made(scale=1.0) - null)
    np.testing.assert_allclose(made(memory=4.0), want, rtol=1e-4, atol=1e-5)
    assert np.abs(made(scale=4.0) - want).max() > 1e-3  # the null branch of captions alone keeps it


def test_overlap_is_refused(world):
    model, params = world
    model = dataclasses.replace(model, chunk=dataclasses.replace(model.chunk, first="overlap"))
    with pytest.raises(UserError, match="use stream"):
        rollout(params, model, make_conditions(model, 2), KEY)
