"""Solvers from noise to latents: they integrate dx/dsigma = v(x, sigma) from sigma = 1 to 0 (Eq. 4).

Three kinds: `unipc` (Wan2.1 and SkyReels-V2), `euler`, and `few_step` (distilled models such as
Self-Forcing).  All call the model once a step, and trace it once, inside a `lax.scan`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from bvjax.config import SamplerConfig
from bvjax.diffusion import flow, unipc
from bvjax.diffusion.noise import gaussian
from bvjax.errors import UserError
from bvjax.random import purpose_key

KINDS = ("unipc", "euler", "few_step")
SCHEDULES = ("wan", "diffusers", "magi")
CORRECTORS = ("unipc", "skyreels")
TRAIN_STEPS = 1000  # timestep t = 1000 sigma
# Wan's UniPC starts from the noisiest of its 1000 training levels, held as a float32; that rounds up
# (by 1.3e-8), so whole timesteps do not fall below themselves when they are truncated.
UNIPC_SIGMA_MAX = float(np.float32(1.0 - 1.0 / TRAIN_STEPS))


@flax.struct.dataclass
class Start:
    """Where a solver begins: at the sampler's first level where `index` is 0, else at `levels[index - 1]`."""

    index: Int[Array, ""]
    levels: tuple[float, ...] = flax.struct.field(pytree_node=False)


VelocityFn = Callable[[Float[Array, "b ..."], Float[Array, ""]], Float[Array, "b ..."]]


def sigmas(sampler: SamplerConfig) -> Float[np.ndarray, "levels"]:
    """Levels that the sampler visits, strictly descending; the last is 0.

    * unipc: N + 1 equal steps from 0.999 to 0, shifted (first level 0.9998 at shift 5); with
      `grid` "diffusers", as `UniPCMultistepScheduler` has it, N equal steps from 1 to 0.001, of
      which the last is replaced by 0, shifted, and the first level set to 1 - 1e-6.
    * euler: N + 1 equal steps from 1 to 0, shifted; with `grid` "diffusers", as pipelines that name
      no levels have it from `FlowMatchEulerDiscreteScheduler`, N equal steps from 1 to 0.001, the
      latter shifted, then all shifted, and 0; with "magi", as MAGI-1, 1 - u^2 with N + 1 equal steps
      of u from 0 to 1, shifted.
    * few_step: the listed unwarped timesteps looked up in the table of 1000 levels, equal steps
      down from 1 with 0 left out, shifted: [1000, 750, 500, 250] at shift 5 is [1000, 937.5,
      833.33, 625] / 1000.

    Raises:
        UserError: for an unknown kind, grid or corrector, steps outside 1..1000, a shift outside 0.01..100, or a
            few-step list that does not fit.
    """
    return _grid(sampler).astype(np.float32)


def timesteps(sampler: SamplerConfig) -> Float[np.ndarray, "steps"]:
    """Timestep t the model is told at each step, in [0, 1000].

    t = 1000 sigma, for unipc truncated to a whole number: Wan2.1 and SkyReels-V2 truncate, so that
    is the label their weights have met at inference.  The solver's arithmetic keeps the exact
    level.
    """
    return _labels(sampler, _grid(sampler))


def _labels(
    sampler: SamplerConfig, grid: Float[np.ndarray, "levels"]
) -> Float[np.ndarray, "steps"]:
    t = TRAIN_STEPS * grid[:-1]
    return (np.floor(t) if sampler.kind == "unipc" else t).astype(np.float32)


def solve(
    sampler: SamplerConfig,
    velocity_fn: VelocityFn,
    noise: Float[Array, "b ..."],
    key: Key[Array, ""],
    graded: int | None = None,
    look: Callable[[Int[Array, ""], Float[Array, "b ..."]], None] | None = None,
    start: Start | None = None,
) -> Float[Array, "b ..."]:
    """Latents x0 that the flow `velocity_fn` reaches from `noise`, in float32.

    Args:
        sampler: kind, steps, shift; static.
        velocity_fn: (x, sigma) -> v, with x float32 and sigma the scalar label `timesteps / 1000`;
            guidance and context are in its closure.  Traced once, twice where `graded` divides the
            steps.
        noise: the sample at the first level.
        start: a lower first level: all levels are then that much lower, and there are as many steps.
        key: of this (seed, chunk); `few_step` draws from it, the other kinds are deterministic.
        graded: as of `scan_steps`.
        look: is called with each step, from 0 on, and the x0 that it predicts, while the program is traced.

    Raises:
        UserError: as `sigmas`.
    """
    labels, levels, next_levels, per_step = _rows(sampler)
    if start is not None:
        every = [_rows(sampler), *(_rows(sampler, level) for level in start.levels)]
        labels, levels, next_levels, per_step = jax.tree.map(
            lambda *rows: jnp.stack(rows)[start.index], *every
        )
    noise = noise.astype(jnp.float32)
    # a kind is: the first carry, the sample in a carry, and one step
    init: Any
    if sampler.kind == "unipc":
        init = unipc.init(noise)

        def sample(state):
            return state.x

        def step(state, v, sigma, sigma_next, weights):
            return unipc.step(state, v, sigma, weights)

    else:
        init = noise

        def sample(x):
            return x

        def step(x, v, sigma, sigma_next, index):
            if sampler.kind == "euler":
                return euler_step(x, v, sigma, sigma_next)
            return renoise_step(x, v, sigma, sigma_next, key, index)

    def body(carry, step_inputs):
        label, *rest = step_inputs
        if look is not None:
            index, *rest = rest
        v = velocity_fn(sample(carry), label).astype(jnp.float32)
        if look is not None:
            look(index, flow.x0_from_velocity(sample(carry), v, rest[0]))
        return step(carry, v, *rest), None

    rows: tuple[Any, ...] = (labels, levels, next_levels, per_step)
    if look is not None:
        rows = (labels, np.arange(len(labels), dtype=np.int32), *rows[1:])
    return sample(scan_steps(body, init, rows, graded))


def _rows(sampler: SamplerConfig, first: float | None = None) -> tuple[Any, Any, Any, Any]:
    """Label, level, next level and weights of each step; with `first`, of levels that begin there."""
    grid = _grid(sampler)
    if first is not None:
        grid = grid * (min(first, grid[0]) / grid[0])
    levels = grid.astype(np.float32)
    labels = _labels(sampler, grid) / np.float32(TRAIN_STEPS)
    per_step: Any = np.arange(len(labels), dtype=np.int32)
    if sampler.kind == "unipc":
        per_step = unipc.weights(levels, sampler.corrector)
    return labels, levels[:-1], levels[1:], per_step


def scan_steps(
    body: Callable[[Any, Any], tuple[Any, None]], init: Any, rows: Any, graded: int | None = None
) -> Any:
    """The last carry of a scan of a solver's steps over `rows`, of which the last carry gradient.

    Args:
        graded: how many of the last steps carry gradient; None: all.  The others, and what they
            begin with, are constants for a derivative, and leave nothing for a backward pass.

    Raises:
        UserError: `graded` is negative.
    """
    if graded is not None and graded < 0:
        raise UserError(f"{graded} evaluations cannot carry gradient; it must be 0 or more")
    count = len(jax.tree.leaves(rows)[0])
    if graded is None or graded >= count:
        return jax.lax.scan(body, init, rows)[0]

    def constant(carry, row):
        return jax.lax.stop_gradient(body(carry, row)[0]), None

    first, last = (
        jax.tree.map(lambda x, part=part: x[part], rows)
        for part in (slice(None, count - graded), slice(count - graded, None))
    )
    middle, _ = jax.lax.scan(constant, jax.lax.stop_gradient(init), first)
    return jax.lax.scan(body, middle, last)[0]


def euler_step(
    x: Float[Array, "..."], v: Float[Array, "..."], sigma: ArrayLike, sigma_next: ArrayLike
) -> Float[Array, "..."]:
    """x + (sigma' - sigma) v, exact on straight paths; levels may have leading axes of x."""
    return x + flow.align(jnp.subtract(sigma_next, sigma), x) * v


def renoise_step(
    x: Float[Array, "b ..."],
    v: Float[Array, "b ..."],
    sigma: ArrayLike,
    sigma_next: ArrayLike,
    key: Key[Array, ""],
    index: int | Int[Array, ""],
) -> Float[Array, "b ..."]:
    """Predict x0 and noise it again to `sigma_next` with fresh noise keyed by (key, index).

    This is the sampler of consistency models that Self-Forcing uses; at sigma_next = 0 it returns
    x0.
    """
    return _renoise(flow.x0_from_velocity(x, v, sigma), sigma_next, key, index)


def _renoise(x0, sigma_next, key, index):
    fresh = gaussian(purpose_key(key, "fresh noise", index), x0.shape[0], x0.shape[1:])
    return flow.interpolate(x0, fresh, sigma_next)


def solve_to_exit(
    sampler: SamplerConfig,
    velocity_fn: VelocityFn,
    noise: Float[Array, "b ..."],
    key: Key[Array, ""],
    exit_step: Int[Array, ""],
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """The first `exit_step` + 1 evaluations of the few-step sampler, and none after them.

    Not differentiable: the number of evaluations is traced.  `exit_x0` is the last of them again.

    Args:
        sampler: of kind few_step.
        velocity_fn, noise, key: as of `solve`.
        exit_step: the evaluation to stop at, 0 the first; at the last, x0 is what `solve` returns.

    Returns:
        The sample that evaluation `exit_step` was given, and the x0 that it predicts, float32.

    Raises:
        UserError: the sampler has another kind, and as `sigmas`.
    """
    levels, labels = _few_step_levels(sampler)

    def body(i, carry):
        x, *_ = carry
        v = velocity_fn(x, labels[i]).astype(jnp.float32)
        x0 = flow.x0_from_velocity(x, v, levels[i])
        return _renoise(x0, levels[i + 1], key, i), x, x0

    noise = noise.astype(jnp.float32)
    first = jnp.int32(0)
    _, x, x0 = jax.lax.fori_loop(first, exit_step + 1, body, (noise, noise, noise))
    return x, x0


def exit_x0(
    sampler: SamplerConfig,
    velocity_fn: VelocityFn,
    x: Float[Array, "b ..."],
    exit_step: Int[Array, ""],
) -> Float[Array, "b ..."]:
    """The x0 that evaluation `exit_step` of the few-step sampler predicts from `x`; differentiable."""
    levels, labels = _few_step_levels(sampler)
    v = velocity_fn(x, labels[exit_step]).astype(jnp.float32)
    return flow.x0_from_velocity(x, v, levels[exit_step])


def _few_step_levels(sampler):
    """`sigmas`, and the labels of all but the last."""
    if sampler.kind != "few_step":
        raise UserError(f"sampler.kind is {sampler.kind!r}; an exit step needs few_step")
    return jnp.asarray(sigmas(sampler)), jnp.asarray(timesteps(sampler) / np.float32(TRAIN_STEPS))


def _grid(sampler: SamplerConfig) -> Float[np.ndarray, "levels"]:
    """`sigmas` in float64; checks the sampler."""
    if sampler.kind not in KINDS:
        raise UserError(f"sampler.kind is {sampler.kind!r}; it must be one of {', '.join(KINDS)}")
    if not 1 <= sampler.steps <= TRAIN_STEPS:
        raise UserError(f"sampler.steps is {sampler.steps}; it must be 1 to {TRAIN_STEPS}")
    if not 0.01 <= sampler.shift <= 100.0:  # beyond, float32 levels run into 1 or each other
        raise UserError(f"sampler.shift is {sampler.shift}; it must be 0.01 to 100 (1 = no shift)")
    if sampler.schedule not in SCHEDULES:
        raise UserError(
            f"sampler.schedule is {sampler.schedule!r}; it must be one of {', '.join(SCHEDULES)}"
        )
    if sampler.corrector not in CORRECTORS:
        raise UserError(
            f"sampler.corrector is {sampler.corrector!r}; it must be one of {', '.join(CORRECTORS)}"
        )
    if sampler.kind == "few_step":
        sigma = np.append(np.asarray(_few_step_list(sampler)) / TRAIN_STEPS, 0.0)
    elif sampler.kind == "unipc" and sampler.schedule == "diffusers":
        sigma = np.append(np.linspace(1.0, 1.0 / TRAIN_STEPS, sampler.steps + 1)[:-1], 0.0)
        sigma = flow.shift_sigma(sigma, sampler.shift)
        sigma[0] -= 1e-6  # where the signal would be zero, its logarithm infinite
        return sigma
    elif sampler.kind == "euler" and sampler.schedule == "diffusers":
        last = flow.shift_sigma(1.0 / TRAIN_STEPS, sampler.shift)
        sigma = np.append(np.linspace(1.0, last, sampler.steps), 0.0)
    elif sampler.schedule == "magi":
        if sampler.kind != "euler":
            raise UserError(
                f"sampler.kind is {sampler.kind!r}; with sampler.schedule 'magi' it must be euler"
            )
        sigma = 1.0 - np.linspace(0.0, 1.0, sampler.steps + 1) ** 2
    else:
        start = UNIPC_SIGMA_MAX if sampler.kind == "unipc" else 1.0
        sigma = np.linspace(start, 0.0, sampler.steps + 1)
    return flow.shift_sigma(sigma, sampler.shift)


def _few_step_list(sampler: SamplerConfig) -> tuple[float, ...]:
    """`sampler.few_step`, checked; a whole timestep t is entry 1000 - t of the table of levels."""
    listed = sampler.few_step
    if len(listed) != sampler.steps:
        raise UserError(
            f"sampler.steps is {sampler.steps} but sampler.few_step lists {len(listed)} timesteps; "
            f"use sampler.steps={len(listed)} or another list"
        )
    wrong = [t for t in listed if t % 1 != 0 or not 1 <= t <= TRAIN_STEPS]
    if wrong or any(later >= earlier for earlier, later in zip(listed, listed[1:], strict=False)):
        raise UserError(
            f"sampler.few_step is {listed}; it must be descending whole timesteps "
            f"from 1 to {TRAIN_STEPS}"
        )
    return listed
