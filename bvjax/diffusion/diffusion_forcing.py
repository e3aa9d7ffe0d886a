"""Diffusion forcing: latent frames of one window at levels of their own (Chen et al. 2024, SkyReels-V2).

Clean history is a prefix of frames that are finished before the first iteration.  It can be noised
a little and labelled so at each iteration (`sampler.history_noise`), so that small errors in it are
not taken for content.  Blocks of frames can lag `sampler.ar_step` steps behind the block before them:
then each is denoised with a past that is cleaner than itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Real

from bvjax.config import SamplerConfig
from bvjax.diffusion import flow, solvers, unipc
from bvjax.diffusion.noise import gaussian
from bvjax.errors import UserError
from bvjax.random import purpose_key

NOT_BEGUN = 999.0  # SkyReels-V2's label of frames that still are the noise they begin as


@dataclasses.dataclass(frozen=True)
class Timetable:
    """The update of each of F latent frames in each of K iterations, S steps a frame."""

    count: Int[np.ndarray, "k f"]  # steps begun: 0 none yet, n is at step n, S + 1 finished
    timestep: Float[np.ndarray, "k f"]  # the label: NOT_BEGUN, that of step n, 0
    update: Bool[np.ndarray, "k f"]  # does this iteration take the frame a step further
    interval: Int[np.ndarray, "k 2"]  # [start, stop) of the frames that are denoised together


def timetable(
    timesteps: Real[np.ndarray, "steps"],
    frames: int,
    *,
    ready: int = 0,
    window: int | None = None,
    ar_step: int = 0,
    block: int = 1,
) -> Timetable:
    """Iterations that bring `frames` latent frames through all `timesteps`, in blocks of `block`.

    In each iteration the first unfinished block and every block behind a finished one begins its
    next step; any other is `ar_step` steps behind the block before it, and waits where that is less
    than none.  With ar_step 0 all blocks go together, in as many iterations as there are steps; else
    each block adds up to ar_step more.

    Args:
        timesteps: label of each step, descending.
        frames: whole blocks.
        ready: frames at the head, whole blocks, that are finished from the start.
        window: frames that fit into the model at once, whole blocks; None: all.  The interval moves
            on by a block whenever the block behind it begins.

    Raises:
        UserError: a size is not whole blocks, or `ar_step` is so small that more blocks than the
            window holds are under way at once.
    """
    window = frames if window is None else window
    for name, value in (("window", frames), ("history", ready), ("interval", window)):
        if value % block:
            raise UserError(
                f"sampler.causal_block is {block}; it must divide the {value} latent frames of the "
                f"{name}"
            )
    steps, blocks, window_blocks = len(timesteps), frames // block, min(window, frames) // block
    if window_blocks < blocks and ar_step * window_blocks < steps:
        raise UserError(
            f"sampler.ar_step is {ar_step}; with {window_blocks} blocks at a time and {steps} steps it must "
            f"be {-(-steps // window_blocks)} or more"
        )
    before = np.where(np.arange(blocks) < ready // block, steps + 1, 0)
    counts, updates, intervals, stop = [], [], [], window_blocks
    while (before < steps).any():
        count = np.zeros_like(before)
        for i in range(blocks):
            leads = i == 0 or before[i - 1] >= steps
            count[i] = before[i] + 1 if leads else count[i - 1] - ar_step
        count = count.clip(0, steps + 1)
        update = (count != before) & (count <= steps)
        if stop < blocks and update[stop]:
            stop += 1
        counts.append(count)
        updates.append(update)
        intervals.append((stop - window_blocks, stop))
        before = count
    count, update = (np.repeat(np.reshape(x, (-1, blocks)), block, 1) for x in (counts, updates))
    labels = np.concatenate([[NOT_BEGUN], timesteps, [0.0]]).astype(np.float32)
    return Timetable(
        count=count.astype(np.int32),
        timestep=labels[count.astype(np.int32)],
        update=update.astype(bool),
        interval=np.reshape(intervals, (-1, 2)).astype(np.int32) * block,
    )


WindowVelocityFn = Callable[[Float[Array, "b f ..."], Float[Array, "f"]], Float[Array, "b f ..."]]


def is_required(sampler: SamplerConfig, history: int) -> bool:
    """Returns whether a window after `history` clean latent frames needs `solve` of this module.

    Without history noise and lag all free frames share one level, and `solvers.solve` does it.
    """
    return sampler.ar_step > 0 or (sampler.history_noise > 0 and history > 0)


def solve(
    sampler: SamplerConfig,
    velocity_fn: WindowVelocityFn,
    noise: Float[Array, "b f ..."],
    history: Float[Array, "b p ..."] | None,
    key: Key[Array, ""],
    graded: int | None = None,
) -> Float[Array, "b f ..."]:
    """Latents of one window, float32: `history` as it was, then the frames that the flow makes of noise.

    Args:
        sampler: kind unipc or euler, and the three fields of diffusion forcing; static.
        velocity_fn: (x, sigma) -> v of the whole window, sigma the label of each frame in 0..1.
            Traced once.
        noise: the free frames at the first level; its first P frames are not read.
        history: P finished frames, or None.
        key: of this (seed, chunk): the history's noise at iteration k is `history_noise(key, k)`.
        graded: as of `solvers.scan_steps`, of the iterations.

    Raises:
        UserError: as `check` and `timetable`.
    """
    check(sampler)
    ready = 0 if history is None else history.shape[1]
    table = timetable(
        solvers.timesteps(sampler),
        noise.shape[1],
        ready=ready,
        ar_step=sampler.ar_step,
        block=sampler.causal_block if sampler.ar_step else 1,
    )
    grid = solvers.sigmas(sampler)
    step = (table.count - 1).clip(0, sampler.steps - 1)  # that of a waiting frame is not used
    labels = table.timestep / np.float32(solvers.TRAIN_STEPS)
    level = np.float32(sampler.history_noise / solvers.TRAIN_STEPS)
    if ready:
        noise = jnp.concatenate([history, noise[:, ready:]], axis=1)
    if level > 0:
        labels[:, :ready] = level
    noise = noise.astype(jnp.float32)
    # leaves of `step_inputs` are [f] in the body; [1, f] are leading axes of the sample, as steps want them
    unipc_weights, init = (), noise
    if sampler.kind == "unipc":
        unipc_weights = jax.tree.map(
            lambda w: w[step][:, None], unipc.weights(grid, sampler.corrector)
        )
        init = unipc.init(noise)

    def body(state, step_inputs):
        k, label, sigma, sigma_next, update, weights = step_inputs
        x = sample = state.x if sampler.kind == "unipc" else state
        if ready and level > 0:
            fresh = history_noise(key, k, x[:, :ready].shape)
            noised = flow.interpolate(x[:, :ready], fresh, level)
            x = jnp.concatenate([noised, x[:, ready:]], axis=1)
        v = velocity_fn(x, label).astype(jnp.float32)
        if sampler.kind == "unipc":
            new = unipc.step(state, v, sigma, weights)
        else:
            new = solvers.euler_step(sample, v, sigma, sigma_next)
        mask = update.reshape(1, -1, *(1,) * (x.ndim - 2))
        return jax.tree.map(lambda old, new: jnp.where(mask, new, old), state, new), None

    levels = grid[step][:, None], grid[step + 1][:, None]
    rows = np.arange(len(step)), labels, *levels, table.update, unipc_weights
    last = solvers.scan_steps(body, init, rows, graded)
    return last.x if sampler.kind == "unipc" else last


def history_noise(
    key: Key[Array, ""], iteration: int | Int[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "b p ..."]:
    """Fresh standard normal noise for the history at one iteration."""
    return gaussian(purpose_key(key, "history noise", iteration), shape[0], shape[1:])


def check(sampler: SamplerConfig) -> None:
    """Raises `UserError`, in one sentence, when the fields of diffusion forcing do not fit."""
    if not 0 <= sampler.history_noise < solvers.TRAIN_STEPS:
        raise UserError(
            f"sampler.history_noise is {sampler.history_noise}; it is a timestep, 0 (off) or more "
            f"and below {solvers.TRAIN_STEPS}"
        )
    if sampler.ar_step < 0:
        raise UserError(f"sampler.ar_step is {sampler.ar_step}; it must be 0 (off) or more steps")
    if sampler.causal_block < 1:
        raise UserError(
            f"sampler.causal_block is {sampler.causal_block}; it must be 1 (off) or more latent frames"
        )
    if sampler.kind == "few_step" and (sampler.history_noise or sampler.ar_step):
        raise UserError(
            "sampler.kind 'few_step' takes neither sampler.history_noise nor sampler.ar_step; "
            "use unipc or euler"
        )
