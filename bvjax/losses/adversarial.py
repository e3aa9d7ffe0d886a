"""The game of a generator with a discriminator (Eq. 1), by kind, and the penalties that keep the discriminator smooth.

With logits D of real and generated (fake) videos, noised to the same level (`critic_levels`):

  nonsaturating  D's loss softplus(-D(real)) + softplus(D(fake)), G's softplus(-D(fake))
  relativistic   D's loss softplus(-(D(real) - D(fake))),         G's softplus(-(D(fake) - D(real)))

Sigmoids of the first are Eq. 1, with the generator's log(1 - D) replaced by -log D, which has the same solution and a
gradient where the discriminator wins (Goodfellow et al. 2014, section 3).  The second pairs videos of the same captions
(Jolicoeur-Martineau 2019; with both penalties it is R3GAN, Huang et al. 2024, which Self Forcing's paper follows).

R1 and R2 are the squared gradient of D at real and at generated videos.  At full size nobody differentiates D twice:
the published forms are finite differences along one random direction eps ~ N(0, 1),

  scaled      ((D(x + sigma eps) - D(x)) / sigma)^2, in expectation |grad D|^2 for small sigma
  not scaled   (D(x + sigma eps) - D(x))^2, sigma^2 times that ("approximate R1" of APT, Lin et al. 2025)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bvjax.diffusion.noise import gaussian
from bvjax.errors import UserError
from bvjax.random import AnyKey, purpose_key

KINDS = ("nonsaturating", "relativistic")


@dataclasses.dataclass(frozen=True)
class PenaltyConfig:
    """A penalty of the discriminator; weight 0 is off, and then costs nothing."""

    weight: float = (
        0.0  # of `gradient_penalty` in the critic's loss, with all published factors in it
    )
    sigma: float = 0.01  # of the disturbance
    scaled: bool = True  # the difference is divided by sigma

    def __post_init__(self):
        if not self.weight >= 0.0:
            raise UserError(f"penalty.weight is {self.weight}; it must be 0 (off) or more")
        if not 0.0 < self.sigma <= 1.0:
            raise UserError(f"penalty.sigma is {self.sigma}; it must be above 0 and at most 1")


def check_kind(kind: str) -> None:
    """Raises `UserError` for a kind of game that does not exist."""
    if kind not in KINDS:
        raise UserError(f"adversarial.kind is {kind!r}; it can be {' or '.join(KINDS)}")


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """The kind of game and the weights of its parts; the defaults are those of Self-Forcing's code."""

    kind: str = "nonsaturating"
    generator_weight: float = 0.01
    discriminator_weight: float = 0.01  # of the game in the critic's loss; penalties have their own
    r1: PenaltyConfig = PenaltyConfig()
    r2: PenaltyConfig = PenaltyConfig()

    def __post_init__(self):
        check_kind(self.kind)
        for name in ("generator_weight", "discriminator_weight"):
            if not getattr(self, name) >= 0.0:
                raise UserError(
                    f"adversarial.{name} is {getattr(self, name)}; it must be 0 or more"
                )


def _r3gan(sigma: float, weight: float) -> AdversarialConfig:
    both = PenaltyConfig(weight / 2, sigma)  # its loss adds (R1 + R2) / 2
    return AdversarialConfig("relativistic", r1=both, r2=both)


# What others trained with.  "self-forcing" is the default of code that was never run, "self-forcing-paper" what
# others report of the paper; the last two are of recipes with DMD beside the game.
PUBLISHED: Mapping[str, AdversarialConfig] = {
    "self-forcing": AdversarialConfig(),
    "self-forcing-paper": _r3gan(0.05, 30.0),
    "one-forcing": AdversarialConfig(
        generator_weight=0.03,
        discriminator_weight=0.03,
        r1=PenaltyConfig(1.0, 0.1, scaled=False),
        r2=PenaltyConfig(0.0005, 0.01),  # 0.001, halved where it is added
    ),
    "helios": AdversarialConfig(
        generator_weight=0.05, discriminator_weight=0.01, r1=PenaltyConfig(100.0, 0.1, scaled=False)
    ),
}


def generator_loss(
    kind: str, fake_logits: Float[Array, "b"], real_logits: Float[Array, "b"] | None = None
) -> Float[Array, ""]:
    """The generator's loss; `real_logits` are needed by "relativistic" only.

    Raises `UserError` for an unknown kind, and for a relativistic game without real logits.
    """
    return generator_losses(kind, fake_logits, real_logits).mean()


def generator_losses(
    kind: str, fake_logits: Float[Array, "b"], real_logits: Float[Array, "b"] | None = None
) -> Float[Array, "b"]:
    """`generator_loss` of each video."""
    check_kind(kind)
    if kind == "nonsaturating":
        return jax.nn.softplus(-fake_logits)
    if real_logits is None:
        raise UserError(
            "adversarial.kind 'relativistic' compares generated videos with real ones of the same captions, and "
            "there are no real logits; use 'nonsaturating'"
        )
    return jax.nn.softplus(-(fake_logits - real_logits))


def discriminator_loss(
    kind: str, fake_logits: Float[Array, "b"], real_logits: Float[Array, "b"]
) -> Float[Array, ""]:
    """The discriminator's loss of the game, without penalties.  Raises `UserError` for an unknown kind."""
    check_kind(kind)
    if kind == "nonsaturating":
        return jax.nn.softplus(-real_logits).mean() + jax.nn.softplus(fake_logits).mean()
    return jax.nn.softplus(-(real_logits - fake_logits)).mean()


def critic_views(
    config: AdversarialConfig,
    real: Float[Array, "b ..."],
    fake: Float[Array, "b ..."],
    key: AnyKey,
) -> dict[str, Float[Array, "b ..."]]:
    """The videos whose logits `critic_loss` needs: `real` and `fake`, and `r1` and `r2`, the same disturbed.

    Args:
        config: a penalty of weight 0 has no view.
        real: as the discriminator sees them, already noised; `fake` too.
        key: of the disturbances.
    """
    views = {"real": real, "fake": fake}
    for name, penalty, x in (("r1", config.r1, real), ("r2", config.r2, fake)):
        if penalty.weight:
            views[name] = disturbed(x, purpose_key(key, name), penalty.sigma)
    return views


def disturbed(x: Float[Array, "b ..."], key: AnyKey, sigma: float) -> Float[Array, "b ..."]:
    """x + sigma eps; the direction of row b depends on (key, b) only."""
    return x + sigma * gaussian(purpose_key(key, "gradient penalty"), x.shape[0], x.shape[1:])


def gradient_penalty(
    penalty: PenaltyConfig, disturbed_logits: Float[Array, "b"], logits: Float[Array, "b"]
) -> Float[Array, ""]:
    """The mean over videos of the squared difference of logits that noise has made (R1, R2), unweighted."""
    difference = disturbed_logits - logits
    return jnp.mean(jnp.square(difference / penalty.sigma if penalty.scaled else difference))


def critic_loss(
    config: AdversarialConfig, logits: Mapping[str, Float[Array, "b"]]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The discriminator's loss, and its parts unweighted: `game`, `margin`, and `r1` and `r2` where they are on.

    Args:
        config: the game and its weights.
        logits: of all `critic_views`.
    """
    real, fake = logits["real"], logits["fake"]
    game = discriminator_loss(config.kind, fake, real)
    total, metrics = config.discriminator_weight * game, {"game": game}
    for name, penalty, plain in (("r1", config.r1, real), ("r2", config.r2, fake)):
        if penalty.weight:
            metrics[name] = gradient_penalty(penalty, logits[name], plain)
            total += penalty.weight * metrics[name]
    return total, metrics | {"margin": jnp.mean(real - fake)}
