"""Noise of a chunk: what it starts from (Eq. 12, 13) and its levels in training (Eq. 11, 26, 27).

The paper uses the level schedule in training and the shuffle at inference (its section 3.1 and
Table 4).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from bvjax.config import NoiseConfig
from bvjax.diffusion import flow
from bvjax.errors import UserError
from bvjax.level_schedule import SCHEDULES, ChunkLevelsConfig, ScheduleConfig
from bvjax.random import AnyKey, bernoulli, keys_of, purpose_key, uniform

BASES = ("shared", "independent")
ROLES = ("median_shift", "fixed", "cap", "progressive")


# --- initial noise --------------------------------------------------------------------


def gaussian(key: AnyKey, batch: int, shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """Standard normal float32 noise whose row b depends on (key, b) only, not on the batch size.

    Of keys of examples each row has its own.
    """
    # drawn flat: the same numbers, and XLA:CPU compiles a 5-D draw of this kind 4 to 8 times slower
    size = math.prod(shape)
    rows = jax.vmap(lambda own: jax.random.normal(own, (size,), jnp.float32))(keys_of(key, batch))
    return rows.reshape(batch, *shape)


def anchor_noise(
    key: Key[Array, ""], shape: tuple[int, int, int, int], batch: int = 1
) -> Float[Array, "b l h w c"]:
    """Initial noise of the anchor, which has no neighbour to share a base with."""
    return gaussian(purpose_key(key, "anchor noise"), batch, shape)


def initial_noise(
    noise: NoiseConfig,
    key: Key[Array, ""],
    chunk: int | Int[Array, ""],
    shape: tuple[int, int, int, int],
    batch: int = 1,
) -> Float[Array, "b l h w c"]:
    """Initial noise of chunk `chunk` = 1, 2, ... with its boundary frames shuffled (Eq. 12, 13).

    With base "shared" all chunks have the base noise of the seed, as FreeNoise (Qiu et al. 2023)
    does along a window: the frames of independent noise are exchangeable, so shuffling them would
    change nothing.  Row b has a base noise of its own; the shuffle is the same in every row.

    Args:
        noise: `base` and the shuffle unit `shuffle` (s, in latent frames).
        key: the seed of the video.
        chunk: traced or not.
        shape: (latent frames, height, width, channels) of one chunk.
        batch: rows.

    Raises:
        UserError: for a base that does not exist or a negative shuffle unit.
    """
    if noise.base not in BASES:
        raise UserError(f"noise.base is {noise.base!r}; it must be one of {', '.join(BASES)}")
    counters = (chunk,) if noise.base == "independent" else ()
    key_of_base = purpose_key(key, "base noise", *counters)
    order = frame_order(noise, key, chunk, shape[0])
    # Under a condition, which always holds: without it XLA:TPU draws inside the gather, a program
    # that takes half a minute to compile where these two take two seconds.
    draw = lambda key: gaussian(key, batch, shape)
    nothing = lambda key: jnp.zeros((batch, *shape), jnp.float32)
    base = jax.lax.cond(order[0] >= 0, draw, nothing, key_of_base)
    return jnp.take(base, order, axis=1)


def frame_order(
    noise: NoiseConfig, key: Key[Array, ""], chunk: int | Int[Array, ""], frames: int
) -> Int[Array, "l"]:
    """Returns the base frame of each latent frame of chunk `chunk`: the permutations of Eq. 12 and 13.

    The last and the first s frames are permuted inside their windows, keyed by (seed, chunk,
    side).  s is cut to half a chunk so that the windows never overlap.  The prefix of chunk 1
    stays: nothing comes before it.  The suffix of the last chunk is shuffled although nothing
    follows, because a story may be extended or streamed and a chunk's noise must not depend on how
    long the story gets.
    """
    if noise.shuffle < 0:
        raise UserError(f"noise.shuffle is {noise.shuffle}; it must be 0 (off) or more frames")
    window = min(noise.shuffle, frames // 2)
    identity = jnp.arange(frames, dtype=jnp.int32)
    if window < 2:  # one frame has one order
        return identity
    prefix = jax.random.permutation(purpose_key(key, "shuffle prefix", chunk), identity[:window])
    suffix = jax.random.permutation(purpose_key(key, "shuffle suffix", chunk), identity[-window:])
    prefix = jnp.where(chunk > 1, prefix, identity[:window])
    return jnp.concatenate([prefix, identity[window : frames - window], suffix])


# --- levels of chunks in training -----------------------------------------------------


def chunk_levels(
    schedule: str,
    n: int,
    eps_min: float = 0.1,
    eps_max: float = 1.0 / 1.003,  # amplitudes in the ratio 0.003 (section 5.1)
    alpha: float = 10.0,
    renormalise: bool = False,
) -> Float[np.ndarray, "n"]:
    """Noise level eps_c of each of n chunks: Eq. 11 (cosine), Eq. 26 (linear), Eq. 27 (sigmoid).

    The paper writes c = 1..n in c / (n - 1), which overshoots, but says the first chunk has eps_min
    and the last eps_max; so the index is c - 1, and a single chunk has eps_min.  The sigmoid misses
    both ends by eps-range / (1 + e^{alpha / 2}) unless `renormalise` stretches it onto them.
    "naive" is the fixed level that the paper contrasts with progressive ones: eps_max for every
    chunk, n = 1 included.  Training reads naive as no schedule at all (`levels=None` in
    `draw_sigma`).

    Raises:
        UserError: for an unknown schedule, n < 1, or levels not in 0 < eps_min <= eps_max <= 1.
    """
    if schedule not in SCHEDULES:
        raise UserError(
            f"the noise schedule is {schedule!r}; it must be one of {', '.join(SCHEDULES)}"
        )
    if n < 1:
        raise UserError(f"a noise schedule over {n} chunks is asked for; it needs at least 1")
    if not 0.0 < eps_min <= eps_max <= 1.0:
        raise UserError(
            f"eps_min is {eps_min} and eps_max is {eps_max}; they must satisfy "
            "0 < eps_min <= eps_max <= 1"
        )
    if schedule == "naive":
        return np.full(n, eps_max, np.float32)
    if n == 1:
        return np.full(1, eps_min, np.float32)
    position = np.arange(n) / (n - 1)  # 0 at the first chunk, 1 at the last
    if schedule == "linear":
        rise = position
    elif schedule == "cosine":
        rise = 0.5 * (1.0 - np.cos(np.pi * position))
    else:
        rise = 1.0 / (1.0 + np.exp(-alpha * (position - 0.5)))
        if renormalise:
            rise = (rise - rise[0]) / (rise[-1] - rise[0])
    return (eps_min + (eps_max - eps_min) * rise).astype(np.float32)


def schedule_levels(config: ScheduleConfig, n: int) -> Float[np.ndarray, "n"]:
    """`chunk_levels` of each of n chunks as a configuration says; raises as that does."""
    return chunk_levels(
        config.schedule, n, config.eps_min, config.highest, config.alpha, config.renormalise
    )


def level_of(config: ChunkLevelsConfig, chunk: Int[Array, ""]) -> Float[Array, ""]:
    """Level of chunk `chunk` = 1, 2, ... in generation; 0 of the anchor, which is chunk 0."""
    table = jnp.asarray(schedule_levels(config, config.chunks))
    return jnp.where(chunk < 1, 0.0, table[jnp.clip(chunk - 1, 0, config.chunks - 1)])


def draw_sigma(
    key: AnyKey,
    levels: Float[Array | np.ndarray, "*b c"] | None,
    role: str,
    shape: tuple[int, ...],
    *,
    mix: float | Float[Array, ""] = 0.5,
    shift: float | Float[Array, ""] = 1.0,
    max_shift: float = 20.0,
) -> Float[Array, "..."]:
    """Training levels sigma of B clips of C chunks; eps_c is the schedule's level of chunk c.

    Ordinary levels are u ~ U(0, 1), independent for every chunk, shifted by `shift`.  Without
    `levels` all are ordinary.  With them a clip is ordinary with probability `mix` and otherwise
    has, with one u ~ U(0, 1) shared by its chunks so that levels rise along the clip as the
    schedule does:

    * median_shift: u shifted by s_c = eps_c / (1 - eps_c), so the median of sigma_c is eps_c and
      its support all of [0, 1].  s_c is clipped to `max_shift` (20: medians up to 0.952); eps_max
      itself would mean 333, that is nothing but noise.
    * fixed: eps_c.
    * cap: eps_c u.
    * progressive: (1 - u) eps_c + u eps_{c-1} with eps_0 = 0: the schedule, read as a function of
      time, u chunks earlier.  These are the levels of progressive denoising (PA-VDM, Xie et al.
      2025), where each chunk descends to its predecessor's level while the first becomes clean and
      leaves.  Needs `levels` of consecutive chunks from the first on.

    Args:
        key: consumed whole; fold the training step in.
        levels: [C], or [B, C] when clips differ in which chunks they show.
        role: one of the four above.
        shape: (B, C); without `levels` any shape.
        mix: share of clips with ordinary levels.
        shift: of ordinary levels, 1 = uniform.
        max_shift: only for median_shift.

    Raises:
        UserError: for an unknown role.
    """
    if role not in ROLES:
        raise UserError(f"the role of levels is {role!r}; it must be one of {', '.join(ROLES)}")
    ordinary = uniform(purpose_key(key, "ordinary levels"), shape)
    ordinary = jnp.asarray(flow.shift_sigma(ordinary, shift))
    if levels is None:
        return ordinary
    levels = jnp.broadcast_to(jnp.asarray(levels, jnp.float32), shape)
    ones = (1,) * (len(shape) - 1)
    u = uniform(purpose_key(key, "shared level"), (shape[0], *ones))
    if role == "median_shift":
        # the clip is on the level, where it also keeps eps_c = 1 from dividing by zero
        capped = jnp.minimum(levels, max_shift / (1.0 + max_shift))
        scheduled = flow.shift_sigma(u, capped / (1.0 - capped))
    elif role == "fixed":
        scheduled = levels
    elif role == "cap":
        scheduled = levels * u
    else:
        earlier = jnp.pad(levels[:, :-1], ((0, 0), (1, 0)))
        scheduled = (1.0 - u) * levels + u * earlier
    is_ordinary = bernoulli(purpose_key(key, "level mix"), mix, (shape[0], 1))
    return jnp.where(is_ordinary, ordinary, scheduled)
