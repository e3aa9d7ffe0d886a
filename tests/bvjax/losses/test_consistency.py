"""Few-step starts on toys with a closed form, and the teacher's guidance on a small network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import (
    BuildConfig,
    ChunkConfig,
    DiTConfig,
    GuidanceConfig,
    MemoryConfig,
    ModelConfig,
    RetrievalConfig,
    RopeConfig,
    SamplerConfig,
    TextConfig,
)
from bvjax.diffusion import flow
from bvjax.diffusion.solvers import sigmas
from bvjax.errors import UserError
from bvjax.losses.clip import make_clip
from bvjax.losses.consistency import (
    ConsistencyConfig,
    ConsistencyDistillation,
    consistency_loss,
)
from bvjax.losses.distillation import TeacherConfig, student_places, teacher_levels
from bvjax.losses.history import HistoryConfig
from bvjax.losses.ode_regression import OdeConfig, OdeRegression, ode_loss, teacher_path
from bvjax.losses.teacher_forcing import ForcingConfig, TeacherForcing
from tests.support.random_params import random_dit

CHUNKS, TEXT, DIM = 4, 3, 8
FEW = SamplerConfig(kind="few_step", steps=4, shift=3.0)
MODEL = ModelConfig(
    name="test",
    chunk=ChunkConfig(height=32, width=32, fps=2, frames=8),
    text=TextConfig(dim=DIM, max_length=TEXT),
    dit=DiTConfig(dim=16, num_heads=2, num_layers=2, ffn_dim=16, freq_dim=8, similarity_keys=True),
    memory=MemoryConfig(slots=8, capacity=6, tau=0.8),
    build=BuildConfig(n_recent=2, n_random=2),
    retrieval=RetrievalConfig(num_recent=1, num_retrieved=1),
    rope=RopeConfig(mode="window"),
    sampler=FEW,
    guidance=GuidanceConfig(scale=1.0),
)

SHAPE = (5, 3, 2)


def draw(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


# ---- toys ---------------------------------------------------------------------------------------
def point(mean):
    """The velocity of data that is one point: straight paths, on which Euler steps are exact."""
    return lambda x, sigma: (x - mean) / jnp.maximum(flow.align(sigma, x), 1e-12)


def width(sigma, std):
    return jnp.sqrt((1 - sigma) ** 2 * std**2 + sigma**2)


def gaussian(std):
    """The velocity of data N(0, std^2): its paths scale x with `width`."""

    def velocity(x, sigma):
        sigma = flow.align(sigma, x)
        return (sigma - (1 - sigma) * std**2) / width(sigma, std) ** 2 * x

    return velocity


def consistent(std):
    """The velocity whose f is the end of the path, x std / width."""

    def velocity(x, sigma):
        sigma = flow.align(sigma, x)
        return (x - x * std / width(sigma, std)) / jnp.maximum(sigma, 1e-12)

    return velocity


def loss_of(student, average, teacher, levels, seed=0):
    place = jax.random.randint(jax.random.key(seed), SHAPE[:1], 0, len(levels) - 1)
    at = jnp.asarray(levels)
    return consistency_loss(student, average, teacher, draw(1), draw(2), at[place], at[place + 1])


def test_an_exactly_consistent_model_has_no_loss():
    """Data of one point: f is that point at every level, and the teacher's step stays on the line."""
    velocity = point(0.7)
    losses = loss_of(velocity, velocity, velocity, teacher_levels(8, 3.0))
    assert losses.shape == SHAPE[:1]
    np.testing.assert_allclose(losses, 0.0, atol=1e-10)
    assert (loss_of(point(0.2), velocity, velocity, teacher_levels(8, 3.0)) > 0.1).all()


def test_of_curved_paths_the_loss_is_that_of_the_teachers_steps():
    """The step's error is of second order in the step, its square of fourth: half the step, a sixteenth."""
    student, teacher = consistent(0.5), gaussian(0.5)
    coarse, fine = (
        loss_of(student, student, teacher, teacher_levels(n, 1.0), seed=3).mean() for n in (40, 80)
    )
    assert 0 < fine < coarse / 10


def test_only_the_student_carries_gradient_and_it_is_that_of_finite_differences():
    def loss(student, average, teacher):
        levels = teacher_levels(6, 2.0)
        return loss_of(point(student), point(average), gaussian(teacher), levels).mean()

    values = (jnp.float32(0.3), jnp.float32(0.1), jnp.float32(0.6))
    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*values)
    assert grads[1] == 0.0 and grads[2] == 0.0
    step = 1e-2
    above, below = (loss(values[0] + d, *values[1:]) for d in (step, -step))
    np.testing.assert_allclose(grads[0], (above - below) / (2 * step), rtol=1e-2)


def test_the_last_step_aims_at_the_teachers_latents_whatever_the_average_says():
    sigma, zero = jnp.full(SHAPE[:1], 0.2), jnp.zeros(SHAPE[:1])
    teacher, student = gaussian(0.5), point(0.0)
    one, other = (
        consistency_loss(student, average, teacher, draw(1), draw(2), sigma, zero)
        for average in (gaussian(2.0), gaussian(3.0))
    )
    np.testing.assert_array_equal(one, other)
    x = flow.interpolate(draw(1), draw(2), sigma)
    end = x - 0.2 * teacher(x, sigma)
    np.testing.assert_allclose(one, np.square(0.0 - end).mean(axis=(1, 2)), rtol=1e-5)


def test_paths_end_where_the_equation_says():
    levels = teacher_levels(400, 3.0)
    path, end = jax.jit(lambda x: teacher_path(gaussian(0.5), x, levels, lead=1))(draw(4))
    assert path.shape == (400, *SHAPE)
    np.testing.assert_array_equal(path[0], draw(4))
    np.testing.assert_allclose(end, 0.5 * draw(4), atol=2e-2)  # Euler, 400 steps
    middle = width(levels[200], 0.5) * draw(4)
    np.testing.assert_allclose(path[200], middle, atol=2e-2)


def test_the_ode_loss_takes_each_sample_at_its_level():
    samples, end, sigma = draw(5, (3, *SHAPE)), draw(6), jnp.array([1.0, 0.8, 0.4])
    which = jnp.array([0, 2, 1, 1, 0])
    student = lambda x, level: flow.align(level, x) + x
    made = ode_loss(student, samples, end, sigma, which)
    for i, k in enumerate([0, 2, 1, 1, 0]):
        x = samples[k, i]
        error = x - sigma[k] * (sigma[k] + x) - end[i]
        np.testing.assert_allclose(made[i], np.square(error).mean(), rtol=1e-5)
    path, end = teacher_path(point(0.7), draw(4), teacher_levels(8, 3.0), lead=1)
    places = np.array([0, 2, 4, 6])
    levels = jnp.asarray(teacher_levels(8, 3.0)[places])
    exact = ode_loss(point(0.7), path[places], end, levels, jnp.array([0, 1, 2, 3, 0]))
    np.testing.assert_allclose(exact, 0.0, atol=1e-10)


# ---- levels and refusals ------------------------------------------------------------------------
def test_the_students_levels_are_among_the_teachers():
    places = student_places(FEW, 48)
    assert places == (0, 12, 24, 36)
    levels = teacher_levels(48, FEW.shift)
    assert levels[0] == 1.0 and levels[-1] == 0.0 and (np.diff(levels) < 0).all()
    np.testing.assert_allclose(levels[list(places)], sigmas(FEW)[:-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TeacherConfig(levels=1), "levels are 1; they must be 2 to 1000"),
        (lambda: TeacherConfig(guidance=0.0), "guidance is 0.0 .*; the first must be above 0"),
        (lambda: student_places(SamplerConfig(), 48), "sampler.kind is 'unipc'; a few-step"),
        (lambda: student_places(FEW, 10), "the teacher's 10 levels must hold all of these"),
        (
            lambda: distillation(GuidanceConfig(scale=4.0, memory=8.0)),
            "guidance.scale is 4 and guidance.memory 8; a student",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(make, message):
    with pytest.raises(UserError, match=message):
        make()


# ---- on a network -------------------------------------------------------------------------------
def distillation(own=MODEL.guidance, method=ConsistencyDistillation, **config):
    history = HistoryConfig({"semantic": 1}, anchor_drop=0, caption_drop=0, noise_chance=0)
    forcing = ForcingConfig(history=history, targets_per_chunk=1, frames=4)
    model = dataclasses.replace(MODEL, guidance=own)
    null = np.asarray(draw(9, (TEXT, DIM)))
    kind = ConsistencyConfig if method is ConsistencyDistillation else OdeConfig
    return method(TeacherForcing(model, forcing, null), kind(**config))


@pytest.fixture(scope="module")
def params():
    return random_dit(MODEL)


@pytest.fixture(scope="module")
def clip():
    keys = jax.random.split(jax.random.key(2), 3)
    batch = {
        "latents": jax.random.normal(keys[0], (1, 1 + 2 * CHUNKS, 4, 4, 16)),
        "text": jax.random.normal(keys[1], (1, CHUNKS, TEXT, DIM)),
        "embedding": jax.random.normal(keys[2], (1, CHUNKS, DIM)),
    }
    return make_clip(batch, distillation().forcing.grid)


def test_the_null_branch_of_the_memory_forgets_what_was_retrieved_and_nothing_moves(params, clip):
    made = distillation()
    forcing, key = made.forcing, jax.random.key(3)

    @jax.jit
    def contexts(params):
        targets = forcing.draw_targets(clip, key)
        entries = forcing.entries(params, clip, targets, key)
        valid = targets.history.valid
        sees = valid & ~jnp.array([True, False])  # [retrieved | recent]
        return forcing.context(entries, targets), forcing.context(entries, targets, sees)

    (whole, start), (less, start_less) = contexts(params)
    np.testing.assert_array_equal(start, start_less)
    # Times are those of the whole selection.
    np.testing.assert_array_equal(whole.selection.entry_positions, less.selection.entry_positions)
    np.testing.assert_array_equal(whole.anchor, less.anchor)
    assert whole.selection.valid[0].tolist() == [[0, 0], [0, 1], [1, 1], [1, 1]]
    assert less.selection.valid[0].tolist() == [[0, 0], [0, 1], [0, 1], [0, 1]]


@pytest.mark.slow
def test_the_teacher_is_guided_by_captions_and_by_the_memory(params, clip):
    """v_null + s (v - v_null): s is that of the memory in chunks that retrieved something."""
    key, noisy, sigma = jax.random.key(3), draw(7, (1, CHUNKS, 2, 4, 4, 16)), draw(8, (1, CHUNKS))
    sigma = jax.nn.sigmoid(sigma)

    def velocities(config):
        made = distillation(**config)

        def both(params):
            drawn = next(iter(made.parts(clip, key)))[2]
            return drawn.student(params)(noisy, sigma), drawn.teacher(params)(noisy, sigma)

        return jax.jit(both)(params)

    student, alone = velocities({"guidance": 1.0})
    np.testing.assert_allclose(alone, student, atol=1e-5)
    captions = velocities({"guidance": 3.0})[1]
    twice = velocities({"guidance": 5.0})[1]
    np.testing.assert_allclose(twice - student, 2.0 * (captions - student), atol=1e-3)
    assert np.abs(captions - student).max() > 1e-2
    memory = velocities({"guidance": 3.0, "memory_guidance": 6.0})[1]
    np.testing.assert_allclose(memory[:, :2], captions[:, :2], atol=1e-4)  # nothing retrieved yet
    assert (np.abs(memory - captions)[:, 2:].max(axis=(0, 2, 3, 4, 5)) > 1e-2).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", [ConsistencyDistillation, OdeRegression])
def test_gradient_descent_lowers_the_loss_of_a_network(params, clip, method):
    made = distillation(method=method, levels=4, guidance=2.0)
    key = jax.random.key(5)

    def loss(student):
        return made.loss(student, params, params, clip, key)

    (first, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert sorted(metrics) == ["anchor", "chunks", "frames"]
    expected = metrics["chunks"] + 0.15 * metrics["anchor"] + metrics["frames"]
    np.testing.assert_allclose(first, expected, rtol=1e-5)
    norm = sum(float(jnp.square(g).sum()) for g in jax.tree.leaves(grads))
    rate = 0.02 * float(first) / norm
    moved = jax.tree.map(lambda p, g: p - rate * g, params, grads)
    second, _ = jax.jit(loss)(moved)
    np.testing.assert_allclose(first - second, 0.02 * first, rtol=0.3)
    # Also through the student's own history: the first layer's keys of clean chunks matter.
    assert np.any(grads["blocks"]["self_attn"]["k"]["kernel"])
