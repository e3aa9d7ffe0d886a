"""The few-step sampler stopped at one of its evaluations, as Self Forcing trains it (Huang et al. 2025).

`sample_to_exit` runs the evaluations up to the exit step, whose number is traced, and has no derivative.
`exit_latents` is the last of them alone, with its derivative: what it is given is a constant.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Int

from bvjax.config import ModelConfig
from bvjax.denoiser.context import prepare_context
from bvjax.denoiser.denoise import (
    anchor_velocity,
    noise_of_anchor,
    noise_of_chunk,
    solver_key,
    window_velocity,
)
from bvjax.denoiser.guidance import Velocity
from bvjax.denoiser.types import ChunkInput, Latents, MemoryState
from bvjax.diffusion.solvers import exit_x0, solve_to_exit
from bvjax.sharding import ONE_DEVICE, Layout


def sample_to_exit(
    params: Any,
    model: ModelConfig,
    inputs: ChunkInput,
    state: MemoryState | None,
    exit_step: Int[Array, ""],
    layout: Layout = ONE_DEVICE,
) -> tuple[Latents, Latents]:
    """A chunk from noise to what evaluation `exit_step` predicts.

    Args:
        params: of the DiT.
        state: what the chunk sees; None makes the anchor, from its caption alone.
        exit_step: the evaluation to stop at; at the last, latents are those of `denoise_chunk`.

    Returns:
        What that evaluation was given, and the latents that it predicts, float32 [L, h, w, z].
    """
    noise = noise_of_anchor(model, inputs)
    if state is not None:
        noise = noise_of_chunk(model, inputs, layout)
    velocity = _velocity(params, model, inputs, state, layout)
    noisy, latents = solve_to_exit(model.sampler, velocity, noise, solver_key(inputs), exit_step)
    return noisy[0], latents[0]


def exit_latents(
    params: Any,
    model: ModelConfig,
    inputs: ChunkInput,
    state: MemoryState | None,
    noisy: Latents,
    exit_step: Int[Array, ""],
    layout: Layout = ONE_DEVICE,
) -> Latents:
    """The latents that evaluation `exit_step` predicts from `noisy`; differentiable in `params`.

    Arguments are those of `sample_to_exit`, which returns `noisy`.
    """
    velocity = _velocity(params, model, inputs, state, layout)
    return exit_x0(model.sampler, velocity, noisy[None], exit_step)[0]


def _velocity(params, model, inputs, state, layout) -> Velocity:
    if state is None:
        return anchor_velocity(params, model, inputs, layout)
    chunk_context = prepare_context(model, state, inputs, layout, guided=True)
    return window_velocity(params, model, inputs, chunk_context, layout)
