"""The programs that generate a video, compiled ahead of time for devices that are not here."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bvjax import weights
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.denoise import denoise_chunk
from bvjax.denoiser.encode import write_chunk
from bvjax.denoiser.types import ChunkInput, MemoryState, init_state
from bvjax.memory import bank as kv_bank
from bvjax.nets import vae
from bvjax.nets.vae_layers import spatial_axes
from bvjax.placement import sharding_rule
from bvjax.plan.hlo import Collective, ProgramArray, collectives, largest
from bvjax.sharding import Layout


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program.  Sizes are bytes on one device."""

    name: str
    arguments: int
    outputs: int  # those that do not take the place of arguments
    temporaries: int
    largest: ProgramArray  # of the temporaries
    collectives: tuple[Collective, ...]


# Words of compilers that refuse a program for its size, and of the size of all of it.
_TOO_LARGE = (
    "RESOURCE_EXHAUSTED",
    "Ran out of memory",
    "out of memory",
    "Exceeded hbm capacity",
    "would exceed memory",
    "exceeds available memory",
)
_USED = r"(?:Used|Program hbm requirement|Total hbm usage >=) ([\d.]+)([KMGT])\b"


class TooLarge(Exception):
    """The compiler refused a program because it does not fit."""

    def __init__(self, name: str, needed: int | None, message: str):
        super().__init__(message)
        self.name, self.needed, self.message = name, needed, message


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Arguments of the programs, as shapes with shardings."""

    params: Any
    state: MemoryState
    inputs: ChunkInput
    latents: jax.ShapeDtypeStruct
    vae: Any
    vae_state: vae.VAEState
    pieces: jax.ShapeDtypeStruct  # latents as the VAE takes them


def inputs(model: ModelConfig, layout: Layout) -> Inputs:
    """The arguments for one chunk of `model` on the mesh of `layout`; weights in the dtype of the matmuls."""
    state = jax.eval_shape(functools.partial(init_state.__wrapped__, model))
    state = jax.tree.map(_struct, state, state_shardings(state, layout))
    whole = functools.partial(jax.ShapeDtypeStruct, sharding=layout.sharding())
    text, key = (model.text.max_length, model.text.dim), jax.eval_shape(jax.random.key, 0)
    chunk, grid = model.chunk, ChunkGrid.of(model)
    latents = (grid.latents_per_chunk, *grid.latent_size, model.dit.in_channels)
    vae_state = jax.eval_shape(
        lambda: vae.init_decode_state(model.vae, 1, chunk.height, chunk.width)
    )
    spatial = spatial_axes(layout, *grid.latent_size)
    first_of_shot: Any = whole((), jnp.int32)
    return Inputs(
        params=_weights(model, layout, "dit"),
        state=state,
        inputs=ChunkInput(
            chunk_id=whole((), jnp.int32),
            text=whole(text, jnp.float32),
            embedding=whole(text[1:], jnp.float32),
            null_text=whole(text, jnp.float32),
            key=whole(key.shape, key.dtype),
            shot=first_of_shot,
        ),
        latents=whole(latents, jnp.float32),
        vae=_weights(model, layout, "vae"),
        vae_state=jax.tree.map(
            lambda s: _struct(s, layout.sharding(None, None, *spatial)), vae_state
        ),
        pieces=whole((1, *latents), jnp.float32),
    )


def _weights(model: ModelConfig, layout: Layout, part: str) -> Any:
    """A part's parameters where generation puts them."""
    rule = sharding_rule(layout, part) or (lambda name, shape: layout.sharding())
    dtype = jnp.dtype(getattr(model, part).dtype)
    return jax.tree_util.tree_map_with_path(
        lambda path, s: jax.ShapeDtypeStruct(
            s.shape, dtype, sharding=rule("/".join(key.key for key in path), s.shape)
        ),
        weights.shapes(model, part),
    )


def state_shardings(state: MemoryState, layout: Layout) -> Any:
    """The shardings of `init_state`'s arrays."""
    return jax.tree.map(
        lambda bank: kv_bank.shardings(bank, layout),
        state,
        is_leaf=lambda x: isinstance(x, kv_bank.KVBank),
    )


def _struct(shape, sharding):
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def compile_generation(
    model: ModelConfig, layout: Layout, say: Callable[[str], object], decode: bool = False
) -> list[Program]:
    """The programs of a chunk: `denoise`, all its steps, `commit`, and `decode` if requested.

    That of the VAE has many shapes of convolutions and takes longer to compile than the others.

    Raises:
      TooLarge: a compiler that knows the memory's size found that a program does not fit.
    """
    arguments = inputs(model, layout)
    static = ("model", "layout")

    def decoded(params, model, state, latents, layout):
        return vae.decode_pictures(params, model.vae, state, latents, first=False, layout=layout)

    calls = {
        "denoise": (
            jax.jit(denoise_chunk, static_argnames=static),
            (arguments.params, model, arguments.state, arguments.inputs),
        ),
        "commit": (
            jax.jit(write_chunk, static_argnames=static, donate_argnames="state"),
            (arguments.params, model, arguments.state, arguments.inputs, arguments.latents),
        ),
    }
    if decode:
        calls["decode"] = (
            jax.jit(decoded, static_argnames=static),
            (arguments.vae, model, arguments.vae_state, arguments.pieces),
        )
    programs = []
    for name, (fn, args) in calls.items():
        say(f"compiling {name}")
        programs.append(compile_program(name, fn.lower(*args, layout=layout), layout))
    return programs


def compile_program(name: str, lowered, layout: Layout) -> Program:
    """Compiles and reads off what matters; raises `TooLarge`."""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if not any(words in text for words in _TOO_LARGE):
            raise
        raise TooLarge(name, needed_bytes(text), text) from error
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return Program(
        name=name,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        largest=largest(text),
        collectives=tuple(collectives(text, layout.mesh)),
    )


def needed_bytes(text: str) -> int | None:
    """Bytes that the program wants, from the compiler's message (`Used 28.1G of 15.75G hbm`)."""
    match = re.search(_USED, text)
    if not match:
        return None
    return int(float(match.group(1)) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[match.group(2)])


def sharded_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes with shardings on one device."""
    return sum(
        math.prod(s.sharding.shard_shape(s.shape)) * s.dtype.itemsize
        for s in jax.tree.leaves(tree)
        if not jnp.issubdtype(s.dtype, jax.dtypes.prng_key)
    )
