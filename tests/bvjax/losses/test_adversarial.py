"""The game of Eq. 1 by hand, and its penalties against derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.losses import adversarial
from bvjax.losses.adversarial import AdversarialConfig, PenaltyConfig
from bvjax.losses.critic_levels import CriticLevelsConfig, draw_levels, draw_noise, noised

FAKE, REAL = jnp.array([0.5, -1.0]), jnp.array([2.0, 0.25])


def penalty_of(score, x, key, sigma, scaled):
    """Of a score function."""
    views = score(adversarial.disturbed(x, key, sigma)), score(x)
    return adversarial.gradient_penalty(PenaltyConfig(1.0, sigma, scaled), *views)


def softplus(x):
    return np.log1p(np.exp(np.asarray(x, np.float64)))


def test_the_non_saturating_game_is_eq_1_but_for_the_generator():
    """log D(x) + log(1 - D(x~)) of sigmoids, negated, for D; -log D(x~) for G."""
    probability = lambda x: 1 / (1 + np.exp(-np.asarray(x, np.float64)))
    value = np.log(probability(REAL)).mean() + np.log(1 - probability(FAKE)).mean()
    made = adversarial.discriminator_loss("nonsaturating", FAKE, REAL)
    np.testing.assert_allclose(made, -value, rtol=1e-6)
    made = adversarial.generator_loss("nonsaturating", FAKE)
    np.testing.assert_allclose(made, -np.log(probability(FAKE)).mean(), rtol=1e-6)


def test_the_relativistic_game_compares_pairs():
    made = adversarial.discriminator_loss("relativistic", FAKE, REAL)
    np.testing.assert_allclose(made, softplus(FAKE - REAL).mean(), rtol=1e-6)
    made = adversarial.generator_loss("relativistic", FAKE, REAL)
    np.testing.assert_allclose(made, softplus(REAL - FAKE).mean(), rtol=1e-6)


@pytest.mark.parametrize("kind", adversarial.KINDS)
def test_players_pull_in_opposite_directions(kind):
    for_generator = jax.grad(lambda fake: adversarial.generator_loss(kind, fake, REAL))(FAKE)
    for_critic = jax.grad(lambda fake: adversarial.discriminator_loss(kind, fake, REAL))(FAKE)
    assert (for_generator < 0).all() and (for_critic > 0).all()


def test_of_a_linear_score_the_scaled_penalty_is_the_squared_slope_along_the_direction():
    slope = jax.random.normal(jax.random.key(0), (3, 2))
    score = lambda x: jnp.einsum("bij,ij->b", x, slope)
    x, key = jnp.ones((4, 3, 2)), jax.random.key(1)
    scaled = penalty_of(score, x, key, 0.1, True)
    # Whatever sigma is: the score is linear.
    np.testing.assert_allclose(scaled, penalty_of(score, x, key, 0.01, True), rtol=1e-2)
    plain = penalty_of(score, x, key, 0.1, False)
    np.testing.assert_allclose(plain, 0.01 * scaled, rtol=1e-5)


def test_in_expectation_the_scaled_penalty_is_the_squared_gradient():
    score = lambda x: jnp.tanh(x).sum(axis=1) ** 2
    x = jnp.broadcast_to(jnp.array([0.3, -0.7, 0.2]), (40000, 3))
    exact = np.square(np.asarray(jax.grad(lambda x: score(x[None])[0])(x[0]))).sum()
    made = penalty_of(score, x, jax.random.key(0), 1e-3, True)
    np.testing.assert_allclose(made, exact, rtol=0.03)  # one direction each; 40000 of them


def test_directions_do_not_depend_on_the_size_of_the_batch():
    x, key = jnp.zeros((4, 3)), jax.random.key(2)
    all_four = adversarial.disturbed(x, key, 1.0)
    np.testing.assert_array_equal(adversarial.disturbed(x[:1], key, 1.0), all_four[:1])
    assert len({float(v) for v in all_four.ravel()}) == 12


def test_the_critic_s_loss_is_weighted_and_what_has_weight_0_is_not_looked_at():
    real, fake, key = jnp.full((1, 1), 5.0), jnp.full((1, 1), 9.0), jax.random.key(0)
    score = lambda views: {name: 2.0 * x[:, 0] for name, x in views.items()}
    logits = score(adversarial.critic_views(AdversarialConfig(), real, fake, key))
    assert sorted(logits) == ["fake", "real"]
    total, metrics = adversarial.critic_loss(AdversarialConfig(), logits)
    np.testing.assert_allclose(total, 0.01 * (softplus(-10.0) + softplus(18.0)), rtol=1e-6)
    assert sorted(metrics) == ["game", "margin"] and metrics["margin"] == -8.0
    both = AdversarialConfig(
        r1=PenaltyConfig(3.0, 0.1, scaled=False), r2=PenaltyConfig(2.0, 0.1, scaled=True)
    )
    views = adversarial.critic_views(both, real, fake, key)
    assert abs(views["r1"][0, 0] - 5.0) < 1 and abs(views["r2"][0, 0] - 9.0) < 1
    assert views["r1"] - real != views["r2"] - fake  # a direction of its own for each
    more, metrics = adversarial.critic_loss(both, score(views))
    r1 = (2.0 * (float(views["r1"][0, 0]) - 5.0)) ** 2
    r2 = (2.0 * (float(views["r2"][0, 0]) - 9.0) / 0.1) ** 2
    np.testing.assert_allclose([metrics["r1"], metrics["r2"]], [r1, r2], rtol=1e-3)
    np.testing.assert_allclose(more - total, 3.0 * r1 + 2.0 * r2, rtol=1e-3)


def test_published_weights():
    one_forcing = adversarial.PUBLISHED["one-forcing"]
    assert (one_forcing.r1.weight, one_forcing.r1.sigma, one_forcing.r1.scaled) == (1.0, 0.1, False)
    assert (one_forcing.r2.weight, one_forcing.r2.scaled) == (0.0005, True)
    paper = adversarial.PUBLISHED["self-forcing-paper"]
    assert paper.kind == "relativistic" and paper.r1 == paper.r2 == PenaltyConfig(15.0, 0.05)


def test_levels_are_uniform_then_shifted_then_clamped():
    sigma = np.asarray(draw_levels(jax.random.key(0), 20000))
    assert sigma.min() == np.float32(0.02) and sigma.max() == np.float32(0.98)
    # The median of u is 1/2, and 5 u / (1 + 4 u) of it 5/6.
    np.testing.assert_allclose(np.median(sigma), 5 / 6, atol=0.01)
    flat = np.asarray(draw_levels(jax.random.key(0), 20000, CriticLevelsConfig(shift=1.0)))
    np.testing.assert_allclose(np.quantile(flat, [0.25, 0.75]), [0.25, 0.75], atol=0.02)
    whole = flat[(flat > 0.02) & (flat < 0.98)] * 1000
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-3)
    np.testing.assert_array_equal(draw_levels(jax.random.key(0), 3), sigma[:3])


def test_videos_are_noised_by_a_key_that_they_may_share():
    x = jnp.arange(8.0).reshape(2, 4)
    sigma, key = jnp.array([0.25, 1.0]), jax.random.key(3)
    made, noise = noised(x, sigma, key), draw_noise(key, x)
    np.testing.assert_allclose(made[0], 0.75 * x[0] + 0.25 * noise[0], rtol=1e-6)
    np.testing.assert_array_equal(made[1], noise[1])
    np.testing.assert_allclose(
        noised(2 * x, sigma, key) - made, (1 - sigma)[:, None] * x, atol=1e-5
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdversarialConfig(kind="hinge"), "'hinge'; it can be nonsaturating or relativ"),
        (
            lambda: AdversarialConfig(generator_weight=-1.0),
            "generator_weight is -1.0; it must be 0",
        ),
        (lambda: PenaltyConfig(weight=-1.0), "penalty.weight is -1.0; it must be 0"),
        (lambda: PenaltyConfig(sigma=0.0), "penalty.sigma is 0.0; it must be above 0"),
        (
            lambda: CriticLevelsConfig(shift=0.0),
            "critic_levels.shift is 0.0; it must be 0.01 to 100",
        ),
        (lambda: CriticLevelsConfig(least=0.5, most=0.5), "least is 0.5 and .* 0 < least < most"),
        (lambda: adversarial.generator_loss("relativistic", FAKE), "there are no real logits"),
        (lambda: adversarial.discriminator_loss("gan", FAKE, REAL), "kind is 'gan'; it can be"),
    ],
)
def test_illegal_values_are_refused_in_one_sentence(make, message):
    with pytest.raises(UserError, match=message):
        make()
