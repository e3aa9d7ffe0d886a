"""Work and bytes of one training step, from the shapes of its arrays."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import jax
import jax.numpy as jnp

from bvjax import flops
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.plan.program import sharded_bytes
from bvjax.plan.training import Batch, inputs, make_task
from bvjax.sharding import ONE_DEVICE, TOKENS
from bvjax.train.dit_objective import DiTObjective
from bvjax.train.lora import LoraConfig
from bvjax.train.lora_task import LoraState
from bvjax.train.state import TrainState


def step_flops(
    objective: DiTObjective, videos: int, chunks: int, lora: LoraConfig | None = None
) -> Counter:
    """FLOPs of a step by part of the DiT, forward, recomputed and backward."""
    objective = dataclasses.replace(objective, layout=ONE_DEVICE)
    state, batch = inputs(objective, videos, chunks, lora)
    task, key = make_task(objective, videos, lora), jax.eval_shape(jax.random.key, 0)

    def grads(state, batch, key):
        return jax.value_and_grad(task.loss_of(state), has_aux=True)(state.params, batch, key)

    return flops.count(grads, state, batch, key, part=_part)


def _part(path: str) -> str:
    """`projections, backward` of `transpose(jvp(WanDiT))/.../ffn`: names within transformations."""
    names = re.sub(r"\w+\(|\)", "", path)
    when = "backward" if "transpose(" in path else "forward"
    if "rematted_computation" in path:
        when = "recomputed"
    return f"{flops.dit_part(names)}, {when}"


def memory_parts(objective: DiTObjective, state: TrainState, batch: Batch) -> dict[str, int]:
    """Bytes on one device: the state and a batch, then what a step must keep between two passes.

    `entries` are the keys and values of the encoded chunks, of all layers, with their gradients; `inputs`
    the residual stream before each layer, from which the backward pass goes on. Both are of the videos that
    are on the devices at once, one for each of the axis `data`. Of a LoRA, `weights` are the DiT's with its factors,
    `merged` the sum of both that the network is given, and `gradients` those of the sum.
    """
    dit, layout = objective.model.dit, objective.layout
    chunks, grid = batch["text"].shape[1], objective.teacher.grid
    targets, encoded = counts(objective, chunks)
    rows = layout.size(*TOKENS)
    kept = encoded * grid.tokens_per_chunk + objective.model.memory.anchor * grid.tokens_per_latent
    width = 2 * dit.dim * jnp.dtype(dit.dtype).itemsize
    at_once = objective.forcing.targets_at_once or targets
    params, merged = sharded_bytes(state.params), {}
    if isinstance(state, LoraState):
        whole = sharded_bytes(state.base)
        params, merged = params + whole, {"merged": whole}
    return dict(
        weights=params,
        **merged,
        average=sharded_bytes(state.ema),
        optimizer=sharded_bytes(state.opt_state),
        gradients=params,
        batch=sharded_bytes(batch),
        entries=2 * dit.num_layers * kept * width // (rows * layout.size("tensor")),
        inputs=dit.num_layers * (at_once + encoded) * grid.tokens_per_chunk * dit.dim * 4 // rows,
    )


def counts(objective: DiTObjective, chunks: int) -> tuple[int, int]:
    """(targets of a video, chunks of it that are encoded for them)."""
    forcing, retrieval = objective.forcing, objective.model.retrieval
    targets = forcing.drawn_targets or forcing.targets_per_chunk * chunks
    sources = targets * (retrieval.num_retrieved + retrieval.num_recent)
    return targets, min(sources, chunks) if objective.model.build.context == "none" else chunks


def rows_seen(model: ModelConfig) -> int:
    """Rows that a target's queries are multiplied with: its own, the anchor's, and those that slots can hold."""
    grid, retrieval = ChunkGrid.of(model), model.retrieval
    tokens = grid.tokens_per_chunk
    kept = min(model.memory.capacity, tokens)
    recent = tokens if retrieval.dense_recent else kept
    anchor = model.memory.anchor * grid.tokens_per_latent
    return tokens + anchor + retrieval.num_retrieved * kept + retrieval.num_recent * recent


def traffic(
    objective: DiTObjective, parts: dict[str, int], videos: int, chunks: int
) -> dict[str, int]:
    """Bytes that one device reads and writes for a step, at least.

    Weights are read in each of three passes (forward, recomputed, backward) of each accumulated part as
    they are multiplied and whole, whatever `fsdp`; so is the context of every target, on all devices that
    share its rows.
    """
    model, layout = objective.model, objective.layout
    width, parts_of_step = jnp.dtype(model.dit.dtype).itemsize, videos // layout.size("data")
    state = parts["weights"] + parts["average"] + parts["optimizer"] + parts["gradients"]
    targets, _ = counts(objective, chunks)
    row = 2 * model.dit.num_layers * model.dit.dim * width // layout.size("tensor")
    return {
        "state": 2 * state,
        "weights": 3 * parts_of_step * parts["weights"] * layout.size("fsdp") * width // 4,
        "context": 3 * parts_of_step * targets * rows_seen(model) * row,
        "layer inputs": 2 * parts_of_step * parts["inputs"],
    }
