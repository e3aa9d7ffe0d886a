"""Floating-point operations by part, from shapes alone: a product of [m, k] and [k, n] is 2 m k n.

Norms, softmax, RoPE and modulation are not counted, nor is what padding or a static capacity adds
to the work.
"""

from __future__ import annotations

import math

import jax
import numpy as np

from bvjax.config import ModelConfig, VAEConfig
from bvjax.generate import steps
from bvjax.nets import vae


def dit_forward(model: ModelConfig, tokens: int, context_rows: int = 0) -> float:
    """One pass of one branch over `tokens`, each of which sees all of them and `context_rows` more."""
    dit, text = model.dit, model.text
    d, f, rows = dit.dim, dit.ffn_dim, text.max_length
    linear = 2 * tokens * d * (6 * d + 2 * f) + 2 * rows * d * 2 * d  # q k v o, q o; k v of text
    attention = 4 * tokens * d * (tokens + context_rows + rows)
    patch = math.prod(dit.patch)
    ends = 2 * tokens * d * patch * (dit.in_channels + dit.out_channels)
    ends += 2 * rows * d * (text.dim + d) + 2 * d * (dit.freq_dim + d + 6 * d)
    return dit.num_layers * (linear + attention) + ends


def branches(model: ModelConfig) -> int:
    """Passes of the network in one denoising step."""
    return 2 if model.cfg.guided else 1


def denoise(model: ModelConfig, tokens: int, context_rows: int) -> float:
    """All denoising steps of `tokens` tokens."""
    return model.sampler.steps * branches(model) * dit_forward(model, tokens, context_rows)


def commit(model: ModelConfig, tokens: int, context_rows: int) -> float:
    """The clean pass, once for each bank; what the probes cost is left out."""
    seen = context_rows if model.build.context == "with" else 0
    return (1 + model.cfg.two_banks) * dit_forward(model, tokens, seen)


def context_rows(model: ModelConfig, state: steps.State, given: steps.ChunkInput) -> float:
    """Rows of the memory that a token of the chunk sees, the mean over layers."""
    context = jax.jit(lambda s, g: steps._look_back(model, s, g)[1])(state, given)
    return 0.0 if context is None else float(np.mean(np.asarray(context.length)))


def text_encoder(model: ModelConfig) -> float:
    """One caption, padded to its full length."""
    text = model.text
    rows, inner = text.max_length, text.num_heads * text.head_dim
    layer = 2 * rows * text.dim * (4 * inner + 3 * text.ffn_dim) + 4 * rows * rows * inner
    return text.num_layers * layer


def vae_decode(config: VAEConfig, height: int, width: int, latents: int, first: bool) -> float:
    """The products and convolutions that decoding a piece traces to."""
    size = (1, latents, height // config.spatial_factor, width // config.spatial_factor)
    z = jax.ShapeDtypeStruct((*size, config.z_dim), np.float32)
    state = jax.eval_shape(lambda: vae.init_decode_state(config, 1, height, width))
    params = jax.eval_shape(lambda key: vae.init_params(config, key), jax.random.key(0))
    run = lambda p, s, z: vae.decode_stream(p, config, s, z, first=first)
    return count(jax.make_jaxpr(run)(params, state, z).jaxpr)


def in_words(operations: float) -> str:
    """`1.23 G`: operations, or operations a second, in thousands of thousands."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if operations >= factor:
            return f"{operations / factor:.3g} {prefix}FLOP"
    return f"{operations / 1e6:.3g} MFLOP"


def count(jaxpr) -> float:
    """Operations of all products and convolutions of a jaxpr, loops as often as they run."""
    total = 0.0
    for equation in jaxpr.eqns:
        out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        shapes = [v.aval.shape for v in equation.invars[:2]]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * out * math.prod(shapes[0][axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            spec = equation.params["dimension_numbers"].rhs_spec
            total += 2 * out * math.prod(shapes[1]) / shapes[1][spec[0]]
        else:
            times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            total += times * sum(count(inner) for inner in _inner(equation.params))
    return total


def _inner(params):
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "jaxpr"):
                yield item.jaxpr
            elif hasattr(item, "eqns"):
                yield item
