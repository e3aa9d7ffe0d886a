"""One chunk step as plain arrays, for who computes it without bvjax's programs."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.context import prepare_context
from bvjax.denoiser.denoise import solver_key
from bvjax.denoiser.guidance import guidance_scale
from bvjax.denoiser.types import ChunkInput, MemoryState
from bvjax.diffusion import solvers
from bvjax.diffusion.noise import gaussian, initial_noise
from bvjax.errors import UserError
from bvjax.nets.dit import Context, place_features
from bvjax.nets.rope import angles
from bvjax.random import purpose_key


@dataclasses.dataclass(frozen=True)
class ContextRows:
    """Context: keys (roped) and values [layer, row, head, k], valid rows of each layer."""

    keys: np.ndarray
    values: np.ndarray
    similarity: np.ndarray  # [layer, row]
    lengths: np.ndarray  # [layer]


@dataclasses.dataclass(frozen=True)
class ChunkWork:
    """The inputs of a chunk step.  With one layer in `Rows`, all layers see the same rows."""

    model: ModelConfig
    noise: np.ndarray  # [l, h, w, z]
    text: np.ndarray  # [rows, width]
    null_text: np.ndarray
    angles: np.ndarray  # [n, head_dim / 2], of denoising
    clean_angles: np.ndarray  # of the clean pass
    places: np.ndarray  # [n, 24]
    context: ContextRows | None
    null_context: ContextRows | None  # None: as `context`
    scale: float
    levels: np.ndarray  # [steps + 1]
    labels: np.ndarray  # [steps]
    fresh: tuple[np.ndarray, ...]  # of sampler.kind="few_step": noise after each step


def chunk_work(model: ModelConfig, state: MemoryState, inputs: ChunkInput) -> ChunkWork:
    """The work that `denoise_chunk` and `write_chunk` do for a chunk.

    Raises:
        UserError: a sampler whose steps the baseline does not take.
    """
    sampler, grid = model.sampler, ChunkGrid.of(model)
    if sampler.kind not in ("euler", "few_step"):
        raise UserError(f"sampler.kind is {sampler.kind!r}; the baseline knows euler and few_step")
    if model.chunk.first == "overlap" or model.dit.fps_embedding or model.guidance.two_banks:
        raise UserError("the baseline has no overlapping windows, frame rates or second bank")
    if model.build.context_noise:
        raise UserError("build.context_noise is not 0; the baseline encodes chunks as they are")
    prepare = jax.jit(lambda state, inputs: prepare_context(model, state, inputs, guided=True))
    chunk_context = prepare(state, inputs)
    size = (grid.latents_per_chunk, *grid.latent_size, model.dit.in_channels)
    number = grid.number_of(int(inputs.chunk_id))
    start = int(chunk_context.start)
    encoded = start if model.build.context == "with" else 0
    scale = float(guidance_scale(model, chunk_context.selection.valid[0]))
    key, fresh = solver_key(inputs), ()
    if sampler.kind == "few_step":
        keys = (purpose_key(key, "fresh noise", i) for i in range(sampler.steps))
        fresh = tuple(np.asarray(gaussian(k, 1, size))[0] for k in keys)
    return ChunkWork(
        model,
        noise=np.asarray(initial_noise(model.noise, inputs.key, number, size))[0],
        text=np.asarray(inputs.text),
        null_text=np.asarray(inputs.null_text),
        angles=positions_of(model, start)[0],
        clean_angles=positions_of(model, encoded)[0],
        places=positions_of(model)[1],
        context=_rows(chunk_context.context),
        null_context=_rows(chunk_context.null_context),
        scale=scale,
        levels=np.asarray(solvers.sigmas(sampler)),
        labels=solvers.timesteps(sampler) / np.float32(solvers.TRAIN_STEPS),
        fresh=fresh,
    )


def positions_of(model: ModelConfig, base: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """RoPE angles of a chunk that begins at latent frame `base`, and features of its places."""
    grid, dit = ChunkGrid.of(model), model.dit
    positions = jnp.asarray(grid.positions(grid.latents_per_chunk, base))
    rotation = angles(positions, dit.head_dim, dit.rope_theta)
    return np.asarray(rotation), np.asarray(place_features(positions[:, 1:]))


def one_layer(model: ModelConfig) -> ModelConfig:
    """`model` with a single layer: a full memory is the same in all of them (`inputs`)."""
    return dataclasses.replace(model, dit=dataclasses.replace(model.dit, num_layers=1))


def _rows(context: Context | None) -> ContextRows | None:
    if context is None:
        return None
    fields = (context.keys, context.values, context.similarity)
    keys, values, similarity = (np.asarray(x[:, 0, 0].astype(jnp.float32)) for x in fields)
    return ContextRows(keys, values, similarity, np.asarray(context.length)[:, 0, 0])
