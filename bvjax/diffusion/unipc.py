"""UniPC of order 2 (Zhao et al. 2023) as Wan2.1 runs it: bh2, data prediction, corrector.

With m_i the data prediction at level sigma_i, alpha = 1 - sigma, lambda = log(alpha / sigma) and
h = lambda_t - lambda_s, predictor and corrector both start from the exact first-order solution

    (sigma_t / sigma_s) x - alpha_t (e^{-h} - 1) m_s

and add differences of data predictions.  All weights depend on the grid alone, so they are computed
once, in float64 on the host, and a step is a linear combination.  That is also how the last step,
where lambda is infinite, comes out exactly as x = m with no infinity in sight.
"""

from __future__ import annotations

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from bvjax.diffusion import flow


@flax.struct.dataclass
class State:
    """The state that UniPC carries from step to step; all fields are shaped like the sample.

    `x` is where the model is evaluated next, `corrected` the corrected sample one level earlier,
    and `x0_last`, `x0_before` are the data predictions of the last two steps.
    """

    x: Float[Array, "..."]
    corrected: Float[Array, "..."]
    x0_last: Float[Array, "..."]
    x0_before: Float[Array, "..."]


@flax.struct.dataclass
class Weights:
    """Weights of a step's two linear combinations; from `weights` each leaf is [steps].

    corrected' = keep x + from_corrected corrected + now m + last x0_last + before x0_before
    x'         = next_corrected corrected' + next_now m + next_last x0_last
    """

    keep: Float[Array, "..."]
    from_corrected: Float[Array, "..."]
    now: Float[Array, "..."]
    last: Float[Array, "..."]
    before: Float[Array, "..."]
    next_corrected: Float[Array, "..."]
    next_now: Float[Array, "..."]
    next_last: Float[Array, "..."]


def init(noise: Float[Array, "..."]) -> State:
    """The state before step 0; its history has weight zero until it is filled."""
    zeros = jnp.zeros_like(noise)
    return State(x=noise, corrected=zeros, x0_last=zeros, x0_before=zeros)


def step(state: State, v: Float[Array, "..."], sigma: ArrayLike, weights: Weights) -> State:
    """Advances one level with one model output `v`, the velocity at `state.x`.

    The same output serves the corrector of this level and the predictor of the next.  `sigma` and
    the leaves of `weights` are scalars or have leading axes of the sample, so frames can be at
    levels of their own.
    """
    m = flow.x0_from_velocity(state.x, v, sigma)
    w = jax.tree.map(lambda weight: flow.align(weight, m), weights)
    corrected = (
        w.keep * state.x
        + w.from_corrected * state.corrected
        + w.now * m
        + w.last * state.x0_last
        + w.before * state.x0_before
    )
    x = w.next_corrected * corrected + w.next_now * m + w.next_last * state.x0_last
    return State(x=x, corrected=corrected, x0_last=m, x0_before=state.x0_last)


def weights(sigmas: Float[np.ndarray, "levels"], corrector: str = "unipc") -> Weights:
    """Weights of every step of a strictly descending grid with sigmas[0] < 1 and sigmas[-1] = 0.

    With `corrector` "skyreels" the first corrector, at level 1, starts from x_1, where "unipc" starts
    from x_0.  diffusers' pipelines for SkyReels-V2 write the result of a step into the very array that
    the scheduler keeps as its last sample, so that is what they compute; SkyReels-V2's own loop
    writes in the same way.
    """
    sigmas = [float(sigma) for sigma in sigmas]
    # lambda; the level 0 gets none because the last step has no use for it
    log_snr = [math.log((1.0 - sigma) / sigma) for sigma in sigmas[:-1]]
    rows = [
        _corrector(sigmas, log_snr, i) + _predictor(sigmas, log_snr, i)
        for i in range(len(sigmas) - 1)
    ]
    if corrector == "skyreels" and len(rows) > 1:
        keep, from_corrected, *others = rows[1]
        rows[1] = (keep + from_corrected, 0.0, *others)
    return Weights(*np.asarray(rows, np.float32).T)


def _predictor(sigmas: list[float], log_snr: list[float], i: int) -> tuple[float, ...]:
    """Weights of (corrected sample at i, m_i, m_{i-1}) in the sample at i + 1."""
    if i == len(sigmas) - 2:  # lower_order_final: order 1, and e^{-h} = 0
        return 0.0, 1.0, 0.0
    h = log_snr[i + 1] - log_snr[i]
    scale = -(1.0 - sigmas[i + 1]) * math.expm1(-h)  # B(h) = phi_1(h) for bh2
    last = 0.0
    if i > 0:  # + scale / 2 * (m_{i-1} - m_i) / r
        last = scale * 0.5 * h / (log_snr[i - 1] - log_snr[i])
    return sigmas[i + 1] / sigmas[i], scale - last, last


def _corrector(sigmas: list[float], log_snr: list[float], i: int) -> tuple[float, ...]:
    """Weights of (x_i, corrected at i - 1, m_i, m_{i-1}, m_{i-2}) in the corrected sample at i.

    There is none at i = 0.  Its order is that of the predictor that made x_i: 1 at i = 1, 2 later.
    """
    if i == 0:
        return 1.0, 0.0, 0.0, 0.0, 0.0
    h = log_snr[i] - log_snr[i - 1]
    scale = -(1.0 - sigmas[i]) * math.expm1(-h)
    now, before = 0.5 * scale, 0.0
    if i > 1:
        r = (log_snr[i - 2] - log_snr[i - 1]) / h  # negative
        b1 = 1.0 / -h - 1.0 / math.expm1(-h)
        b2 = 2.0 * (b1 / -h - 0.5 / math.expm1(-h))
        # rho_before + rho_now = b1 and r rho_before + rho_now = b2
        rho_before = (b1 - b2) / (1.0 - r)
        now = scale * (b1 - rho_before)
        before = scale * rho_before / r
    return 0.0, sigmas[i] / sigmas[i - 1], now, scale - now - before, before
