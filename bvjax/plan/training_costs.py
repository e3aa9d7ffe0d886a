"""Work and bytes of one training step, from the shapes of its arrays."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import jax
import jax.numpy as jnp

from bvjax import flops
from bvjax.config import ModelConfig
from bvjax.plan.program import sharded_bytes
from bvjax.plan.training import Batch, inputs
from bvjax.sharding import ONE_DEVICE, TOKENS, Layout
from bvjax.train.dit_objective import DiTObjective
from bvjax.train.state import TrainState


def step_flops(objective: DiTObjective, videos: int, chunks: int) -> Counter:
    """FLOPs of a step by part of the DiT, forward, recomputed and backward."""
    objective = dataclasses.replace(objective, layout=ONE_DEVICE)
    state, batch = inputs(objective, videos, chunks)
    key = jax.eval_shape(jax.random.key, 0)
    return flops.count(
        jax.value_and_grad(objective.loss, has_aux=True), state.params, batch, key, part=_part
    )


def _part(path: str) -> str:
    """`projections, backward` of `transpose(jvp(WanDiT))/.../ffn`: names within transformations."""
    names = re.sub(r"\w+\(|\)", "", path)
    when = "backward" if "transpose(" in path else "forward"
    if "rematted_computation" in path:
        when = "recomputed"
    return f"{flops.dit_part(names)}, {when}"


def memory_parts(objective: DiTObjective, state: TrainState, batch: Batch) -> dict[str, int]:
    """Bytes on one device: the state and a batch, then what a step must keep between two passes.

    `context` are the keys and values of the rows that targets see, of all layers; `layer inputs`
    the residual stream before each layer, from which the backward pass goes on.
    """
    dit, layout = objective.model.dit, objective.layout
    videos, chunks = batch["text"].shape[0] // layout.size("data"), batch["text"].shape[1]
    tokens, latent = (
        objective.teacher.grid.tokens_per_chunk,
        objective.teacher.grid.tokens_per_latent,
    )
    entries = objective.model.retrieval.num_retrieved + objective.model.retrieval.num_recent
    targets, rows = objective.forcing.targets_per_chunk * chunks, layout.size(*TOKENS)
    seen = targets * (entries * tokens + objective.model.memory.anchor * latent) + chunks * tokens
    width = 2 * dit.dim * jnp.dtype(dit.dtype).itemsize
    params = sharded_bytes(state.params)
    return dict(
        weights=params,
        average=sharded_bytes(state.ema),
        optimizer=sharded_bytes(state.opt_state),
        gradients=params,
        batch=sharded_bytes(batch),
        context=videos * dit.num_layers * seen * width // (rows * layout.size("tensor")),
        inputs=videos * dit.num_layers * (targets + chunks) * tokens * dit.dim * 4 // rows,
    )


def traffic(model: ModelConfig, layout: Layout, parts: dict[str, int]) -> dict[str, int]:
    """Bytes that one device reads and writes for a step, at least.

    Weights are read in each of three passes (forward, recomputed, backward) as they are multiplied
    and whole, whatever `fsdp`; so is the context, on all devices that share its rows.
    """
    width = jnp.dtype(model.dit.dtype).itemsize
    state = parts["weights"] + parts["average"] + parts["optimizer"] + parts["gradients"]
    return {
        "state": 2 * state,
        "weights": 3 * parts["weights"] * layout.size("fsdp") * width // 4,
        "context": 3 * parts["context"] * layout.size(*TOKENS),
        "layer inputs": 2 * parts["inputs"],
    }
