"""Distribution matching by hand: the convention of guidance, the video's gradient, and where it leads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.diffusion import flow
from bvjax.errors import UserError
from bvjax.losses import dmd
from bvjax.losses.critic_levels import CriticLevelsConfig, draw_levels, draw_noise, noised
from bvjax.random import purpose_key

SHAPE = (3, 2, 1, 2, 2, 4)


def draw(seed):
    return jax.random.normal(jax.random.key(seed), SHAPE)


def test_guidance_3_is_ordinary_guidance_4():
    cond, uncond = draw(0), draw(1)
    made = dmd.guided_score(cond, uncond, dmd.SELF_FORCING_GUIDANCE)
    np.testing.assert_allclose(made, cond + 3.0 * (cond - uncond), rtol=1e-6)
    np.testing.assert_allclose(made, flow.guide(cond, uncond, 4.0), atol=1e-5)
    assert dmd.ordinary_scale(3.0) == 4.0 and dmd.extra_guidance(4.0) == 3.0
    np.testing.assert_array_equal(dmd.guided_score(cond, uncond, 0.0), cond)


def test_the_gradient_is_normalised_by_each_video():
    video, fake, real = draw(0), draw(1), draw(2)
    made = dmd.matching_gradient(video, fake, real)
    for i in range(SHAPE[0]):
        expected = (fake[i] - real[i]) / np.abs(video[i] - real[i]).mean()
        np.testing.assert_allclose(made[i], expected, rtol=1e-5)
    scaled = dmd.matching_gradient(*(x.at[0].multiply(100.0) for x in (video, fake, real)))
    np.testing.assert_allclose(scaled, made, rtol=1e-4)  # one video's size is nothing to another
    same = dmd.matching_gradient(video, fake, video)  # nothing to be normalised by
    assert np.isfinite(same).all()
    broken = dmd.matching_gradient(video, fake.at[0, 0].set(jnp.nan), real)
    assert np.isfinite(broken).all() and not broken[0, 0].any()


def test_the_loss_has_the_gradient_as_its_derivative():
    video, gradient = draw(0), draw(1)
    loss, made = jax.value_and_grad(dmd.matching_loss)(video, gradient)
    np.testing.assert_allclose(loss, 0.5 * np.square(gradient).mean(), rtol=1e-5)
    np.testing.assert_allclose(made, gradient / video.size, rtol=1e-5)


def gaussian_velocity(mean, std=1.0):
    """The exact velocity for data N(mean, std^2): E[eps - x0 | x_sigma]."""

    def velocity(x, sigma):
        sigma = flow.align(sigma, x)
        variance = (1 - sigma) ** 2 * std**2 + sigma**2
        rest = x - (1 - sigma) * mean
        x0 = mean + (1 - sigma) * std**2 / variance * rest
        return sigma / variance * rest - x0

    return velocity


def test_parts_are_put_together_as_published():
    video, key = draw(0), jax.random.key(5)
    real, null, fake = (gaussian_velocity(m) for m in (1.0, 0.5, -1.0))
    made, metrics = dmd.distribution_matching(video, key, real, null, fake, 3.0)
    sigma = draw_levels(key, SHAPE[0])
    x = noised(video, sigma, key)
    clean = [flow.x0_from_velocity(x, v(x, sigma), sigma) for v in (real, null, fake)]
    target = clean[0] + 3.0 * (clean[0] - clean[1])
    expected = dmd.matching_gradient(video, clean[2], target) / video.size
    np.testing.assert_allclose(made, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["dmd_gap"], np.abs(clean[2] - target).mean(), rtol=1e-5)
    with pytest.raises(UserError, match="is 3.0; without a null branch it must be 0"):
        dmd.distribution_matching(video, key, real, None, fake, 3.0)


def test_equal_scores_leave_the_video_as_it_is():
    score = gaussian_velocity(0.3)
    made, _ = dmd.distribution_matching(draw(0), jax.random.key(0), score, None, score, 0.0)
    np.testing.assert_array_equal(made, 0.0)


def test_descent_moves_a_generated_distribution_onto_the_real_one():
    """One number, its mean: with exact scores of both, the mean of what is made becomes that of the data."""
    real = gaussian_velocity(2.0)

    def step(mean, key):
        video = mean + jax.random.normal(purpose_key(key, "made"), (64, 1))
        fake = gaussian_velocity(mean)
        gradient, _ = dmd.distribution_matching(video, key, real, None, fake, 0.0)
        return mean - 0.2 * gradient.sum(), None

    keys = jax.random.split(jax.random.key(0), 200)
    mean, _ = jax.lax.scan(step, jnp.float32(-1.0), keys)
    np.testing.assert_allclose(mean, 2.0, atol=0.05)


def test_the_fake_score_learns_what_is_made_and_nothing_reaches_the_generator():
    levels, key = CriticLevelsConfig(), jax.random.key(7)
    video = 1.5 + draw(4)

    def loss(shift, video):
        return dmd.fake_score_loss(lambda x, sigma: shift - x, video, key, levels)

    of_shift, of_video = jax.grad(loss, argnums=(0, 1))(0.0, video)
    assert of_shift != 0.0 and not np.any(of_video)
    own = purpose_key(key, "fake score")
    sigma, noise = draw_levels(own, SHAPE[0]), draw_noise(own, video)
    x = flow.interpolate(video, noise, sigma)
    np.testing.assert_allclose(loss(0.0, video), np.square(-x - (noise - video)).mean(), rtol=1e-5)
