"""Noise levels in training: the schedule of chunks, where it enters, and the weight of a level's loss."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bvjax.diffusion import noise
from bvjax.errors import UserError
from bvjax.level_schedule import ScheduleConfig
from bvjax.nets.dit import variances

ROLES = (*noise.ROLES, "context")
WEIGHTINGS = ("velocity", "even")


@dataclasses.dataclass(frozen=True)
class LevelsConfig(ScheduleConfig):
    """Noise levels in training (Eq. 11, 26, 27 and where they enter).

    With the schedule `naive` all levels are ordinary ones.
    """

    # median_shift | fixed | cap | progressive: how targets have the level of their chunk, see `noise.draw_sigma`.
    # context: chunks have it where others see them, and targets have ordinary levels.
    role: str = "median_shift"
    max_shift: float = 20.0  # median_shift only: medians up to max_shift / (1 + max_shift)
    mix: float = 0.5  # share of clips with ordinary levels
    shift: float = 3.0  # of ordinary levels
    weighting: str = (
        "velocity"  # velocity: all levels weigh 1, as in Eq. 5 | even, see `level_weight`
    )

    def __post_init__(self):
        super().__post_init__()
        for name, legal in (("role", ROLES), ("weighting", WEIGHTINGS)):
            if getattr(self, name) not in legal:
                raise UserError(
                    f"levels.{name} is {getattr(self, name)!r}; it can be {', '.join(legal)}"
                )
        if not 0.0 < self.max_shift < math.inf:
            raise UserError(f"levels.max_shift is {self.max_shift}; it must be a number above 0")

    def of_targets(self, chunks: int) -> Float[np.ndarray, "c"] | None:
        """Levels of the chunks of a clip as targets; None: all have ordinary ones."""
        if self.schedule == "naive" or self.role == "context":
            return None
        return noise.schedule_levels(self, chunks)

    def of_context(self, chunks: int) -> Float[np.ndarray, "c"] | None:
        """Levels of the chunks of a clip as others see them; None: `HistoryConfig` says how clean they are."""
        if self.schedule == "naive" or self.role != "context":
            return None
        return noise.schedule_levels(self, chunks)


def level_weight(
    weighting: str, sigma: Float[Array, "*n"], latent_std: tuple[float, ...] = ()
) -> Float[Array, "*n"]:
    """Weight of a level's loss: 1, or "even", 1 over what the best linear guess would leave of the velocity.

    That is the mean over channels of v / s, as `add_linear_guess` names them.
    Where v is small, the loss is ten times larger at low levels, which decide details, than at high ones,
    which decide what is shown; "even" gives every level the same share.
    """
    if weighting == "velocity":
        return jnp.ones_like(sigma)
    v, s = variances(sigma[..., None], latent_std)
    return 1.0 / (v / s).mean(axis=-1)
