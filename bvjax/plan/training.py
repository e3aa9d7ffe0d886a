"""The program of a training step, compiled ahead of time for devices that are not here."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bvjax.config import ModelConfig
from bvjax.losses.teacher_forcing import ForcingConfig
from bvjax.plan.program import Program, compile_program
from bvjax.sharding import Layout
from bvjax.train.dit_task import DiTTask
from bvjax.train.mesh import batch_sharding, state_shardings
from bvjax.train.optimizer import OptimizerConfig, learning_rate, make_optimizer
from bvjax.train.state import TrainState, init_state
from bvjax.train.step import make_train_step

STEPS = 1000  # of the run whose schedule is compiled; costs do not depend on it
Batch = dict[str, jax.ShapeDtypeStruct]


def make_task(model: ModelConfig, layout: Layout) -> DiTTask:
    """The DiT's, with the default draw of histories and noise."""
    null_text = np.zeros((model.text.max_length, model.text.dim), np.float32)
    return DiTTask(
        model=model, forcing=ForcingConfig(), null_text=null_text, heldout={}, vae_params=None,
        sample_stories=0, sample_chunks=0, weights_dtype="float32", layout=layout,
    )  # fmt: skip


def inputs(task: DiTTask, videos: int, chunks: int) -> tuple[TrainState, Batch]:
    """What a step takes, as shapes with shardings."""
    layout, grid, text = task.layout, task.teacher.grid, task.model.text
    optimizer = _optimizer()[0]
    state = jax.eval_shape(lambda: init_state(task.init, optimizer, 0))
    state = jax.tree.map(_struct, state, state_shardings(layout, state, task.part))
    latents = (1 + chunks * grid.latents_per_chunk, *grid.latent_size, task.model.dit.in_channels)
    shapes = dict(
        latents=latents, text=(chunks, text.max_length, text.dim), embedding=(chunks, text.dim),
        relevance=(chunks, chunks),
    )  # fmt: skip
    where = batch_sharding(layout)
    batch = {
        name: jax.ShapeDtypeStruct((videos, *shape), jnp.float32, sharding=where)
        for name, shape in shapes.items()
    }
    return state, batch


def compile_step(
    task: DiTTask, state: TrainState, batch: Batch, say: Callable[[str], object]
) -> Program:
    """The step that `train.loop` runs; raises `TooLarge`."""
    optimizer, schedule = _optimizer()
    step = make_train_step(
        task.loss, optimizer, schedule,
        state_sharding=jax.tree.map(lambda s: s.sharding, state),
        batch_sharding=batch_sharding(task.layout),
    )  # fmt: skip
    say("compiling the training step")
    return compile_program("train step", step.lower(state, batch), task.layout)


def _optimizer():
    config = OptimizerConfig()
    schedule = learning_rate(config, STEPS)
    return make_optimizer(config, schedule), schedule


def _struct(shape, where):
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)
