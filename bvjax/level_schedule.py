"""The schedule of noise levels of a video's chunks, as configurations say it (Eq. 11, 26, 27)."""

from __future__ import annotations

import dataclasses
import math

from bvjax.errors import UserError

MAX_CHUNKS = 2**20
SCHEDULES = ("naive", "linear", "cosine", "sigmoid")
SNR_READINGS = ("amplitude", "power")
STARTS = ("full", "level")
EPS_MAX = 1.0 / 1.003  # amplitudes in the ratio 0.003, the SNR of the paper's section 5.1


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Noise level eps_c of each chunk of a video: Eq. 11 (cosine), Eq. 26 (linear), Eq. 27 (sigmoid).

    `snr` gives the last chunk's level by its signal-to-noise ratio, of amplitudes (1 - eps) / eps or of powers, their
    squares: the paper's 0.003 is 0.997 or 0.948.
    """

    schedule: str = "cosine"  # naive | linear | cosine | sigmoid; naive = no schedule
    eps_min: float = 0.1
    eps_max: float = EPS_MAX
    alpha: float = 10.0  # steepness of the sigmoid
    renormalise: bool = False  # whether the sigmoid is stretched to eps_min and eps_max
    snr: float = 0.0  # of the last chunk, in place of eps_max; 0 = eps_max
    snr_reading: str = "amplitude"  # amplitude | power

    def __post_init__(self):
        for name, legal in (("schedule", SCHEDULES), ("snr_reading", SNR_READINGS)):
            if getattr(self, name) not in legal:
                raise UserError(
                    f"levels.{name} is {getattr(self, name)!r}; it can be {', '.join(legal)}"
                )
        if not 0.0 <= self.snr < math.inf:
            raise UserError(f"levels.snr is {self.snr}; it must be a number of 0 (off) or more")
        if self.snr and self.eps_max != EPS_MAX:
            raise UserError(
                f"levels.snr is {self.snr} and levels.eps_max {self.eps_max}; both say the last chunk's level: give one"
            )
        if not 0.0 < self.eps_min <= self.highest <= 1.0:
            raise UserError(
                f"levels.eps_min is {self.eps_min} and the highest level {self.highest:.6g}; they must satisfy "
                "0 < eps_min <= eps_max <= 1"
            )

    @property
    def highest(self) -> float:
        """Level of the last chunk."""
        if not self.snr:
            return self.eps_max
        return 1.0 / (1.0 + (self.snr if self.snr_reading == "amplitude" else self.snr**0.5))


@dataclasses.dataclass(frozen=True)
class ChunkLevelsConfig(ScheduleConfig):
    """Readings in which generation has levels of chunks too; the paper has them in training alone (section 3.1)."""

    chunks: int = 15  # n of the schedule; chunks after the n-th have its level
    # A finished chunk is noised to its level, and told so, when it is encoded.
    context: bool = False
    # full: chunks begin with noise. level: at their level, with the last latent of the chunk before in all frames
    # under the noise; those without one begin with noise.
    start: str = "full"

    def __post_init__(self):
        super().__post_init__()
        if self.start not in STARTS:
            raise UserError(f"levels.start is {self.start!r}; it can be {', '.join(STARTS)}")
        if not 1 <= self.chunks <= MAX_CHUNKS:
            raise UserError(f"levels.chunks is {self.chunks}; it must be 1 to {MAX_CHUNKS}")
