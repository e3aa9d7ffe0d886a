"""Work and bytes of one chunk, from the shapes of its arrays."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bvjax import flops, weights
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.denoise import denoise_chunk
from bvjax.denoiser.encode import write_chunk
from bvjax.nets import text, vae
from bvjax.plan.program import Inputs, inputs, sharded_bytes
from bvjax.sharding import TOKENS, Layout
from kernels_pallas import attention_tpu


def chunk_flops(model: ModelConfig) -> Counter:
    """FLOPs of one chunk by part, with a full context, over all steps and both branches."""
    arguments = inputs(model, Layout())

    def denoise(params, state, inputs):
        return denoise_chunk(params, model, state, inputs)

    def write(params, state, inputs, latents):
        return write_chunk(params, model, state, inputs, latents)

    def encode_text(params, ids, mask):
        return text.UMT5Encoder(model.text).apply({"params": params}, ids, mask)

    def decode(params, state, latents):
        config = dataclasses.replace(model.vae, conv_impl="3d")  # as an accelerator has it
        return vae.decode_stream(params, config, state, latents, first=False)[1]

    words = (1, model.text.max_length)
    caption = [jax.ShapeDtypeStruct(words, dtype) for dtype in (jnp.int32, jnp.bool_)]
    counted = flops.count(
        denoise, arguments.params, arguments.state, arguments.inputs, part=flops.dit_part
    )
    other_programs = {
        "clean pass": (
            write,
            arguments.params,
            arguments.state,
            arguments.inputs,
            arguments.latents,
        ),
        "VAE decode": (decode, arguments.vae, arguments.vae_state, arguments.pieces),
        "text encoder": (encode_text, weights.shapes(model, "text"), *caption),
    }
    return counted + Counter(
        {name: flops.count(*call).total() for name, call in other_programs.items()}
    )


def recache(model: ModelConfig, work: Mapping[str, int]) -> dict[str, int]:
    """Entries that are encoded again, at most, before a chunk whose caption is another, and the FLOPs of that.

    `work` is `chunk_flops(model)`. {} where none are: with another prompt.change, unless the policy is longlive.
    """
    if model.prompt.change != "recache" and model.policy.name != "longlive":
        return {}
    entries = model.retrieval.num_recent
    return {"entries": entries, "flops": entries * work["clean pass"]}


def memory_parts(model: ModelConfig, layout: Layout, arguments: Inputs) -> dict[str, int]:
    """Bytes on one device: what stays for the whole video, then what a layer needs of one branch.

    `gathered` are a layer's keys and values of all rows and, where they are sharded over `fsdp`, its
    weights; `activations` are of the device's shard of the tokens.
    """
    dit, width = model.dit, jnp.dtype(model.dit.dtype).itemsize
    tensor, rows = layout.size("tensor"), layout.size(*TOKENS)
    tokens = ChunkGrid.of(model).tokens_per_chunk
    params = sharded_bytes(arguments.params)
    gathered = 2 * (tokens + context_rows(model)) * dit.dim * width // tensor if rows > 1 else 0
    if layout.size("fsdp") > 1:
        gathered += params * layout.size("fsdp") // dit.num_layers
    own, features = tokens // rows, dit.dim * width
    attention = 4 * features // tensor  # queries, keys, values, output
    mlp = features + 2 * dit.ffn_dim * width // tensor
    return dict(
        weights=params,
        bank=sharded_bytes(arguments.state),
        vae=sharded_bytes(arguments.vae) + sharded_bytes(arguments.vae_state),
        context=context_bytes(model, layout),
        gathered=gathered,
        activations=own * (4 * dit.dim + max(attention, mlp)),  # the residual stream is float32
    )


def context_rows(model: ModelConfig) -> int:
    """Rows of earlier chunks that a chunk's queries can see, in each layer."""
    entries = model.memory.anchor + model.retrieval.num_retrieved + model.retrieval.num_recent
    return entries * model.memory.capacity


def context_bytes(model: ModelConfig, layout: Layout) -> int:
    """Bytes of the assembled contexts on one device: one for each branch it computes that differs."""
    dit = model.dit
    width = 2 * dit.dim * jnp.dtype(dit.dtype).itemsize
    branches = 1
    if layout.size("data") == 1 and (model.guidance.two_banks or model.guidance.memory):
        branches = 2
    num_shards = layout.size("fsdp", "context", "tensor")
    return branches * dit.num_layers * context_rows(model) * width // num_shards


def traffic(model: ModelConfig, layout: Layout, parts: dict[str, int]) -> dict[str, int]:
    """Bytes that one device reads and writes for a chunk, at least: all it needs once a pass.

    What other devices hold is received into memory before it is read; the bank gets one slot's rows.
    """
    branches = 2 if model.guidance.guided and layout.size("data") == 1 else 1
    passes = model.sampler.steps * branches + 1
    layers = model.dit.num_layers
    return {
        "weights": passes * parts["weights"] * layout.size("fsdp"),
        "context": passes * parts["context"] * layout.size(*TOKENS),
        "activations": 2 * passes * layers * parts["activations"],
        "bank": 2 * parts["bank"] // model.memory.slots,
    }


def attention_padding(model: ModelConfig, layout: Layout, chip: str) -> float | None:
    """The share of padding that blocks add to a layer's logits; None where the kernel is not ours."""
    if not chip.startswith("v"):
        return None
    tokens = ChunkGrid.of(model).tokens_per_chunk
    queries = tokens // layout.size(*TOKENS)
    return attention_tpu.padding(queries, tokens + context_rows(model))


def dense_history(model: ModelConfig, minutes: float, fps: int | None = None) -> int:
    """Bytes of all keys and values of a video of `minutes`, kept whole."""
    grid = ChunkGrid.of(model)
    latents = 1 + minutes * 60 * (fps or model.chunk.fps) / 4
    width = 2 * model.dit.dim * jnp.dtype(model.dit.dtype).itemsize
    return int(latents * grid.tokens_per_latent * model.dit.num_layers * width)
