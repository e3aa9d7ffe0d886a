"""Floating-point operations of the parts of a chunk: a matmul of [m, k] and [k, n] is 2 m k n.

Norms, softmax, RoPE and modulation are not counted, nor is what padding or a static capacity adds:
attention counts the rows that are there, unlike `bvjax.flops`, which counts those of the shapes.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from bvjax import flops, weights
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.context import prepare_context
from bvjax.denoiser.types import ChunkInput, MemoryState
from bvjax.nets import text, vae


def dit_forward(model: ModelConfig, tokens: int, context_rows: float = 0) -> float:
    """One pass of one branch over `tokens`, each of which sees all of them and `context_rows` more."""
    return model.dit.num_layers * _layer(model, tokens, context_rows) + _ends(model, tokens)


def _layer(model: ModelConfig, tokens: int, context_rows: float) -> float:
    dit, rows = model.dit, model.text.max_length
    d, f = dit.dim, dit.ffn_dim
    linear = 2 * tokens * d * (6 * d + 2 * f) + 2 * rows * d * 2 * d  # q k v o, q o; k v of text
    return linear + 4 * tokens * d * (tokens + context_rows + rows)


def _ends(model: ModelConfig, tokens: int, head: bool = True) -> float:
    dit, rows = model.dit, model.text.max_length
    d, patch = dit.dim, math.prod(dit.patch)
    ends = 2 * tokens * d * patch * (dit.in_channels + head * dit.out_channels)
    return ends + 2 * rows * d * (model.text.dim + d) + 2 * d * (dit.freq_dim + d + 6 * d)


def branches(model: ModelConfig) -> int:
    """Passes of the network in one denoising step."""
    return 2 if model.guidance.guided else 1


def denoise_chunk(model: ModelConfig, tokens: int, context_rows: float) -> float:
    """All denoising steps of `tokens` tokens."""
    return model.sampler.steps * branches(model) * dit_forward(model, tokens, context_rows)


def write_chunk(model: ModelConfig, tokens: int, context_rows: float) -> float:
    """The clean pass, once for each bank; of the last layer nothing follows its keys and values.

    What the probes cost is left out.
    """
    seen = context_rows if model.build.context == "with" else 0
    layers = (model.dit.num_layers - 1) * _layer(model, tokens, seen)
    last = 2 * tokens * 3 * model.dit.dim**2
    return (1 + model.guidance.two_banks) * (layers + last + _ends(model, tokens, head=False))


def context_rows(model: ModelConfig, state: MemoryState, inputs: ChunkInput) -> float:
    """Rows of the memory that a token of the chunk sees, the mean over layers."""

    def lengths(state, inputs):
        context = prepare_context(model, state, inputs).context
        return jnp.zeros(1) if context is None else context.length

    return float(np.mean(np.asarray(jax.jit(lengths)(state, inputs))))


def text_encoder(model: ModelConfig) -> float:
    """One caption, padded to its full length."""
    shape = (1, model.text.max_length)
    ids, mask = (jax.ShapeDtypeStruct(shape, dtype) for dtype in (np.int32, bool))
    run = lambda p, ids, mask: text.UMT5Encoder(model.text).apply({"params": p}, ids, mask)
    return flops.count(run, weights.shapes(model, "text"), ids, mask).total()


def vae_decode(model: ModelConfig, latents: int, first: bool) -> float:
    """A piece of so many latent frames."""
    config, chunk = model.vae, model.chunk
    size = (1, latents, *ChunkGrid.of(model).latent_size, config.z_dim)
    z = jax.ShapeDtypeStruct(size, np.float32)
    state = jax.eval_shape(lambda: vae.init_decode_state(config, 1, chunk.height, chunk.width))
    run = lambda p, s, z: vae.decode_stream(p, config, s, z, first=first)
    return flops.count(run, weights.shapes(model, "vae"), state, z).total()


def in_words(operations: float) -> str:
    """`1.23 G`: operations, or operations a second, in thousands of thousands."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if operations >= factor:
            return f"{operations / factor:.3g} {prefix}FLOP"
    return f"{operations / 1e6:.3g} MFLOP"
