"""The programs that generate a video, compiled ahead of time for devices that are not here."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bvjax import flops
from bvjax.config import ModelConfig
from bvjax.generate import steps
from bvjax.memory import bank as kv_bank
from bvjax.nets import vae
from bvjax.nets.dit import init_params
from bvjax.plan.hlo import Collective, collectives
from bvjax.sharding import Layout


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program.  Sizes are bytes on one device."""

    name: str
    arguments: int
    outputs: int  # those that do not take the place of arguments
    temporaries: int
    collectives: tuple[Collective, ...]

    @property
    def total(self) -> int:
        return self.arguments + self.outputs + self.temporaries


class TooLarge(Exception):
    """The compiler refused a program because it does not fit."""

    def __init__(self, name: str, needed: int | None, message: str):
        super().__init__(message)
        self.name, self.needed, self.message = name, needed, message


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the programs take, as shapes with shardings."""

    params: Any
    state: steps.State
    given: steps.ChunkInput
    latents: jax.ShapeDtypeStruct


def inputs(model: ModelConfig, layout: Layout) -> Inputs:
    """Of one chunk of `model` on the mesh of `layout`; weights in the dtype they multiply in."""
    dtype = jnp.dtype(model.dit.dtype)
    shapes = jax.eval_shape(
        lambda key: init_params(model.dit, model.text.dim, key), jax.random.key(0)
    )
    params = jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, dtype, sharding=where),
        shapes,
        layout.parameters(shapes),
    )
    state = jax.eval_shape(functools.partial(steps.init_state.__wrapped__, model))
    state = jax.tree.map(_struct, state, state_shardings(state, layout))
    whole = functools.partial(jax.ShapeDtypeStruct, sharding=layout.sharding())
    text, key = (model.text.max_length, model.text.dim), jax.eval_shape(jax.random.key, 0)
    grid = steps.grid_of(model)
    return Inputs(
        params=params,
        state=state,
        given=steps.ChunkInput(
            chunk_id=whole((), jnp.int32),
            text=whole(text, jnp.float32),
            embedding=whole(text[1:], jnp.float32),
            null_text=whole(text, jnp.float32),
            key=whole(key.shape, key.dtype),
        ),
        latents=whole(
            (grid.latents_per_chunk, *grid.latent_size, model.dit.in_channels), jnp.float32
        ),
    )


def state_shardings(state: steps.State, layout: Layout) -> Any:
    """Where `init_state` puts each part of `state`."""
    return jax.tree.map(
        lambda bank: kv_bank.shardings(bank, layout),
        state,
        is_leaf=lambda x: isinstance(x, kv_bank.KVBank),
    )


def _struct(shape, where):
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)


def compile_generation(
    model: ModelConfig, layout: Layout, say: Callable[[str], None]
) -> list[Program]:
    """The two programs of a chunk: `denoise`, all its steps, and `commit`.

    Raises:
      TooLarge: a compiler that knows the memory's size found that a program does not fit.
    """
    given = inputs(model, layout)
    static = ("model", "layout")
    calls = {
        "denoise": (
            jax.jit(steps.denoise, static_argnames=static),
            (given.params, model, given.state, given.given),
        ),
        "commit": (
            jax.jit(steps.commit, static_argnames=static, donate_argnames="state"),
            (given.params, model, given.state, given.given, given.latents),
        ),
    }
    made = []
    for name, (fn, args) in calls.items():
        say(f"compiling {name}")
        made.append(compile_program(name, fn.lower(*args, layout=layout), model, layout))
    return made


def compile_program(name: str, lowered, model: ModelConfig, layout: Layout) -> Program:
    """Compiles and reads off what matters; raises `TooLarge`."""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text and "Ran out of memory" not in text:
            raise
        raise TooLarge(name, _needed(text), text) from error
    memory = compiled.memory_analysis()
    return Program(
        name=name,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        collectives=tuple(
            collectives(compiled.as_text(), layout.mesh, functools.partial(_times, model))
        ),
    )


def _needed(text: str) -> int | None:
    """Bytes that the program wants, from the compiler's message (`Used 28.1G of 15.75G hbm`)."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of", text)
    if not found:
        return None
    return int(float(found.group(1)) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[found.group(2)])


def _times(model: ModelConfig, name: str) -> int:
    """How often an operation runs, by the loops that its name lies in: layers, solver steps."""
    times, scopes = 1, name.split("/")
    for before, scope in zip(scopes, scopes[1:], strict=False):
        if scope == "while":
            layers = before in ("WanDiT", "shard_map")
            times *= model.dit.num_layers if layers else model.sampler.steps
    return times


def chunk_flops(model: ModelConfig) -> Counter:
    """FLOPs of one chunk by part, with a full context, over all steps and both branches."""
    given = inputs(model, Layout())

    def denoise(params, state, chunk):
        return steps.denoise(params, model, state, chunk)

    def commit(params, state, chunk, latents):
        return steps.commit(params, model, state, chunk, latents)

    found = flops.count(denoise, given.params, given.state, given.given, part=flops.dit_part)
    once = flops.count(commit, given.params, given.state, given.given, given.latents)
    decoded = flops.count(functools.partial(_decode, model), _vae_params(model), given.latents)
    return found + Counter({"clean pass": once.total(), "VAE decode": decoded.total()})


def _decode(model, params, latents):
    config = dataclasses.replace(model.vae, conv_impl="3d")  # as an accelerator has it
    start = vae.init_decode_state(config, 1, model.chunk.height, model.chunk.width)
    return vae.decode_stream(params, config, start, latents[None], first=False)[1]


def _vae_params(model: ModelConfig) -> Any:
    return jax.eval_shape(lambda key: vae.init_params(model.vae, key), jax.random.key(0))


def context_bytes(model: ModelConfig, layout: Layout) -> int:
    """Of the assembled contexts on one device: that of each branch it works on that differs."""
    memory, retrieval, dit = model.memory, model.retrieval, model.dit
    rows = (memory.anchor + retrieval.l + retrieval.recent) * memory.capacity
    width = 2 * dit.dim * jnp.dtype(dit.dtype).itemsize
    branches = 1
    if layout.size("data") == 1 and (model.cfg.two_banks or model.cfg.memory):
        branches = 2
    cut = layout.size("fsdp", "context", "tensor")
    return branches * dit.num_layers * rows * width // cut


def sharded_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes with shardings on one device."""
    return sum(
        math.prod(s.sharding.shard_shape(s.shape)) * s.dtype.itemsize
        for s in jax.tree.leaves(tree)
        if not jnp.issubdtype(s.dtype, jax.dtypes.prng_key)
    )


def dense_history(model: ModelConfig, minutes: float, fps: int | None = None) -> int:
    """Bytes of all keys and values of a video of `minutes`, kept whole."""
    grid = steps.grid_of(model)
    latents = 1 + minutes * 60 * (fps or model.chunk.fps) / 4
    width = 2 * model.dit.dim * jnp.dtype(model.dit.dtype).itemsize
    return int(latents * grid.tokens_per_latent * model.dit.num_layers * width)
