"""The program of a training step, compiled ahead of time for devices that are not here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.losses.teacher_forcing import ForcingConfig
from bvjax.plan.program import Program, compile_program
from bvjax.sharding import Layout
from bvjax.train.config import OneModelConfig
from bvjax.train.dit_objective import DiTObjective
from bvjax.train.lora import LoraConfig
from bvjax.train.lora_task import LoraTask
from bvjax.train.mesh import batch_sharding
from bvjax.train.one_model import OneModelTask
from bvjax.train.optimizer import OptimizerConfig
from bvjax.train.state import TrainState
from bvjax.train.step import compile_step as jitted_step
from bvjax.train.task import shapes_of

STEPS = 1000  # of the run whose schedule is compiled; costs do not depend on it
Batch = dict[str, jax.ShapeDtypeStruct]


def sizes_of_work(
    model: ModelConfig, layout: Layout, batch: int | None, minutes: float, targets: int
) -> tuple[int, int]:
    """Returns the videos of a step, and the chunks of a video.

    Args:
        batch: videos; None: one for each index of the axis `data`.
        minutes: of a video, rounded up to whole chunks.
        targets: chunks of a video that are drawn; 0: all of them.

    Raises:
        UserError: a batch that does not divide over `data`, or more targets than chunks.
    """
    data = layout.size("data")
    videos = data if batch is None else batch
    if videos < 1 or videos % data:
        raise UserError(f"`batch` is {videos}; it must be a multiple of data={data}")
    chunks = math.ceil(minutes * 60 * model.chunk.fps / model.chunk.frames)
    if not 0 <= targets <= chunks:
        raise UserError(
            f"`targets` is {targets}; videos have {chunks} chunks, and 0 is all of them"
        )
    return videos, chunks


def with_remat(model: ModelConfig) -> ModelConfig:
    """Returns the model with layers recomputed in the backward pass, if it has not chosen how."""
    if model.dit.remat != "none":
        return model
    return dataclasses.replace(model, dit=dataclasses.replace(model.dit, remat="full"))


def make_objective(model: ModelConfig, layout: Layout, targets: int = 0) -> DiTObjective:
    """The DiT's, with the default draw of histories and noise.

    Args:
        targets: chunks of a video that are drawn and denoised; 0: all of them, as often as by default.
    """
    null_text = np.zeros((model.text.max_length, model.text.dim), np.float32)
    return DiTObjective(
        model=model,
        forcing=ForcingConfig(drawn_targets=targets),
        null_text=null_text,
        heldout={},
        vae_params=None,
        sample_stories=0,
        sample_chunks=0,
        weights_dtype="float32",
        layout=layout,
    )


def inputs(
    objective: DiTObjective, videos: int, chunks: int, lora: LoraConfig | None = None
) -> tuple[TrainState, Batch]:
    """Arguments of a step, as shapes with shardings."""
    batch = batch_shapes(objective.model, objective.layout, videos, chunks)
    return shapes_of(make_task(objective, videos, lora)), batch


def batch_shapes(model: ModelConfig, layout: Layout, videos: int, chunks: int) -> Batch:
    """A batch of encoded videos, as shapes with shardings."""
    grid, text, channels = ChunkGrid.of(model), model.text, model.dit.in_channels
    latents = (1 + chunks * grid.latents_per_chunk, *grid.latent_size, channels)
    shapes = dict(
        latents=latents,
        text=(chunks, text.max_length, text.dim),
        embedding=(chunks, text.dim),
        relevance=(chunks, chunks),
    )
    sharding = batch_sharding(layout)
    return {
        name: jax.ShapeDtypeStruct((videos, *shape), jnp.float32, sharding=sharding)
        for name, shape in shapes.items()
    }


def compile_step(
    objective: DiTObjective,
    state: TrainState,
    batch: Batch,
    say: Callable[[str], object],
    lora: LoraConfig | None = None,
) -> Program:
    """The step that `train.loop` runs; raises `TooLarge`."""
    step = jitted_step(make_task(objective, batch["text"].shape[0], lora), state)
    say("compiling the training step")
    return compile_program("train step", step.lower(state, batch), objective.layout)


def make_task(objective: DiTObjective, videos: int, lora: LoraConfig | None = None) -> OneModelTask:
    """One example at a time on each device of the axis `data`; of more the gradients are accumulated.

    With `lora` its factors are trained, and the DiT stays as it is.
    """
    config = OneModelConfig(steps=STEPS, global_batch_size=videos, device_batch_size=1)
    if lora is not None:
        return LoraTask(objective, OptimizerConfig(), config, objective.layout, lora=lora)
    return OneModelTask(objective, OptimizerConfig(), config, objective.layout)
