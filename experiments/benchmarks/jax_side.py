"""bvjax's side of `against_torch`: programs that are measured, in a process of their own."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import time
from collections.abc import Callable

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some, too

import jax
import jax.numpy as jnp
import numpy as np

from bvjax.chunking import ChunkGrid
from bvjax.denoiser.denoise import denoise_chunk
from bvjax.denoiser.encode import write_chunk
from bvjax.nets import vae
from bvjax.nets.dit import WanDiT
from bvjax.nets.text import UMT5Encoder
from experiments.benchmarks import environment, inputs, peak_flops, work, workload
from experiments.benchmarks.chunk_work import one_layer
from experiments.benchmarks.interleave import seconds_per_call, serve
from experiments.benchmarks.workload import MINUTE, Workload
from kernels_pallas.attention import attention


def dit(task: Workload) -> Callable[[], jax.Array]:
    """One pass over the latents of a chunk, without context."""
    model, params = task.load("dit")
    grid, net = ChunkGrid.of(model), WanDiT(model.dit, model.text.dim)
    positions = jnp.asarray(grid.positions(grid.latents_per_chunk))[None, None]
    chunk_inputs = inputs.chunk_input(model, 1)
    x = jnp.asarray(workload.latents(model, grid.latents_per_chunk))[None, None]
    run = jax.jit(
        lambda p, x, text: net.apply(
            {"params": p}, x, jnp.full((1, 1), 0.5), text, positions, fps=model.chunk.fps
        )[0][0, 0]
    )
    return functools.partial(run, params["dit"], x, jnp.asarray(chunk_inputs.text)[None, None])


def chunk(task: Workload) -> Callable[[], jax.Array]:
    """Denoising and the memory write of a chunk behind a full memory."""
    model, params = task.load("dit")
    return _chunk(model, params["dit"])


def _chunk(model, params):
    number = inputs.steady_chunk(model)
    chunk, state = inputs.chunk_input(model, number), inputs.full_state(model, number)
    chunk = jax.device_put(chunk)
    denoise = jax.jit(lambda p, s, g: denoise_chunk(p, model, s, g))
    write = jax.jit(lambda p, s, g, x: write_chunk(p, model, s, g, x)[0], donate_argnums=1)

    def run():
        nonlocal state
        latents = denoise(params, state, chunk)
        state = write(params, state, chunk, latents)
        jax.block_until_ready(state)
        return latents

    return run


def decode(task: Workload) -> Callable[[], jax.Array]:
    """The latents of a chunk as a video of their own, to frames in [-1, 1]."""
    model, params = task.load("vae")
    z = jnp.asarray(workload.latents(model, ChunkGrid.of(model).latents_per_chunk))[None]
    run = jax.jit(lambda p, z: vae.decode(p, model.vae, z)[0])
    return functools.partial(run, params["vae"], z)


def text(task: Workload) -> Callable[[], jax.Array]:
    """One caption."""
    model, params = task.load("text")
    ids, mask = workload.caption(model)
    run = jax.jit(lambda p, i, m: UMT5Encoder(model.text).apply({"params": p}, i, m)[0])
    return functools.partial(run, params["text"], jnp.asarray(ids), jnp.asarray(mask))


def minute(task: Workload) -> Callable[[], jax.Array]:
    """15 chunk steps and the decoding of as many chunks, piece by piece."""
    model, params = task.load("dit", "vae")
    step, count = _chunk(model, params["dit"]), ChunkGrid.of(model).latents_per_chunk
    z = jnp.asarray(workload.latents(model, 1 + MINUTE * count))[None]
    run = jax.jit(
        lambda p, s, z, first: vae.decode_stream(p, model.vae, s, z, first=first),
        static_argnums=3,
    )

    def whole():
        for _ in range(MINUTE):
            step()
        state = vae.init_decode_state(model.vae, 1, model.chunk.height, model.chunk.width)
        state, frames = run(params["vae"], state, z[:, :1], True)
        for i in range(MINUTE):
            piece = z[:, 1 + i * count : 1 + (i + 1) * count]
            state, frames = run(params["vae"], state, piece, False)
        return frames[0]

    return whole


def attend(task: Workload) -> Callable[[], jax.Array]:
    """Attention alone: every query over every key."""
    n, s, heads, width = task.shape
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (
        jax.random.normal(key, (1, rows, heads, width)).astype(task.dtype)
        for key, rows in zip(keys, (n, s, s), strict=True)
    )
    return functools.partial(jax.jit(attention), q, k, v)


BUILD = dict(dit=dit, chunk=chunk, vae=decode, text=text, minute=minute, attention=attend)


@functools.lru_cache(maxsize=1)
def program(task: Workload) -> Callable[[], jax.Array]:
    """Returns the program of `task`; only that of the last request is kept."""
    return BUILD[task.pair](task)


def operations(task: Workload) -> float:
    """Floating-point operations of a call, 0 where they are not counted."""
    if task.pair == "attention":
        n, s, heads, width = task.shape
        return 4.0 * n * s * heads * width
    if task.pair not in ("dit", "chunk", "vae"):
        return 0.0
    model = task.load()[0]
    tokens, count = ChunkGrid.of(model).tokens_per_chunk, ChunkGrid.of(model).latents_per_chunk
    if task.pair == "vae":
        return work.vae_decode(model, count, first=True)
    if task.pair == "dit":
        return work.dit_forward(model, tokens)
    number, single_layer = inputs.steady_chunk(model), one_layer(model)
    state, chunk_inputs = (
        inputs.full_state(single_layer, number),
        inputs.chunk_input(single_layer, number),
    )
    rows = work.context_rows(single_layer, state, chunk_inputs)
    return work.denoise_chunk(model, tokens, rows) + work.write_chunk(model, tokens, rows)


def answer(request: dict) -> float | str:
    """Seconds of a call.

    {"version": true}, {"device": true}: what this is; {"peak_flops": dtype}: FLOP/s of a large matmul; {"operations":
    task}; {"save": path, "task": task}: one call, whose result goes to a file; {"task": task}.
    """
    if "version" in request:
        return f"jax {importlib.metadata.version('jax')}"
    if "device" in request:
        return environment.device()
    if "peak_flops" in request:
        return peak_flops.measured(request["peak_flops"])
    if "operations" in request:
        return operations(Workload.of(request["operations"]))
    run = program(Workload.of(request["task"]))
    if "save" in request:
        start = time.perf_counter()
        result = np.asarray(run().astype(jnp.float32))
        np.save(request["save"], result)
        return time.perf_counter() - start
    return seconds_per_call(lambda: jax.block_until_ready(run()))


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    serve(workload.guarded(answer))
