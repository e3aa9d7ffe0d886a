"""A full-size checkpoint on a small machine: read from disk, then one chunk, timed part by part:

python -m experiments.benchmarks.one_chunk --preset=wan-1.3b --size=256 --steps=2 --set=dit.dtype=float32

The checkpoint has the preset's names and shapes and random values in bfloat16, layers apart, as
`python -m bvjax convert` writes it (2.8 GB for 1.3B parameters); it is made in a temporary folder
and removed, or stays in --folder for the next time.  Text states are random: the text encoder
(5.7B parameters) and the VAE are neither made nor loaded.

Included: reading every tensor to the device, compiling, `steps` denoising steps of one chunk of
three latent frames that looks back at a memory of four slots (empty, which costs the same), and the
clean pass that writes the chunk to it; without guidance, which would double a step.

Measured on two cores of a busy CPU with bfloat16 instructions (AVX-512): 17 s to load, 16 s to
compile, 48 s a step, 40 s to write the memory, 12.0 GB at the peak (4.1 GB after loading); with the
preset's own bfloat16 matmuls 143 s a step and 11.4 GB.
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax.sharding import SingleDeviceSharding

from bvjax import weights
from bvjax.chunking import ChunkGrid
from bvjax.config import GuidanceConfig, ModelConfig
from bvjax.denoiser.denoise import denoise_chunk
from bvjax.denoiser.encode import write_chunk
from bvjax.denoiser.types import ChunkInput, init_state
from bvjax.errors import UserError
from bvjax.generate.checks import check_model
from bvjax.overrides import apply_overrides
from bvjax.presets import get_preset
from bvjax.tensor_files import TensorInfo, TensorWriter
from bvjax.versions import versions
from experiments.benchmarks.clock import Clock, peak_gigabytes

_PRESET = flags.DEFINE_string("preset", "wan-1.3b", "Whose names and shapes.")
_SIZE = flags.DEFINE_integer("size", 256, "Height and width of the video, pixels.")
_STEPS = flags.DEFINE_integer("steps", 2, "Denoising steps.")
_FOLDER = flags.DEFINE_string(
    "folder", None, "Keep the checkpoint here; used again if it is there."
)
_SET = flags.DEFINE_multi_string("set", [], "Override of the model, e.g. dit.dtype=float32.")

FRAMES, SLOTS = 12, 4
TEXT = 512  # rows of text states


def small(model: ModelConfig, size: int, num_steps: int) -> ModelConfig:
    """`model` for one short chunk of `size` x `size` pixels, without guidance."""
    chunk = dataclasses.replace(model.chunk, height=size, width=size, frames=FRAMES, first="joined")
    model = dataclasses.replace(
        model,
        chunk=chunk,
        guidance=GuidanceConfig(scale=1.0),
        sampler=dataclasses.replace(model.sampler, steps=num_steps),
    )
    capacity = ChunkGrid.of(model).tokens_per_chunk
    memory = dataclasses.replace(model.memory, slots=SLOTS, capacity=capacity)
    return dataclasses.replace(model, memory=memory)


def write_checkpoint(path: Path, model: ModelConfig, seed: int = 0) -> None:
    """Random values, tensor by tensor, on the scale at which a Wan DiT begins its training."""
    rng, dtype = np.random.default_rng(seed), jnp.dtype(jnp.bfloat16)
    flat = weights.flatten(weights.shapes(model, "dit"))
    infos = {
        name: TensorInfo(tuple(flat[leaf].shape[0 if layer is None else 1 :]), dtype.name)
        for name, (leaf, layer) in weights.disk_names(flat).items()
    }
    with TensorWriter(path, infos) as writer:
        for name, (shape, _) in infos.items():
            kind = name.rsplit("/", 1)[-1]
            if kind in ("scale", "bias"):
                values = np.full(shape, float(kind == "scale"), np.float32)
            else:
                fan = shape[-1] if kind == "modulation" else shape[0]
                values = rng.standard_normal(shape, np.float32) * fan**-0.5
            writer.write(name, values.astype(dtype))


def run_chunk(path: Path, model: ModelConfig, clock: Clock) -> tuple[float, dict[str, float]]:
    """Loads the checkpoint and makes one chunk; the chunk's deviation, and peak GB by part."""
    peaks = {}
    device = SingleDeviceSharding(jax.devices()[0])
    with clock.part("load"):
        params = weights.load_tensors(
            path, weights.shapes(model, "dit"), dtype=None, sharding=lambda name, shape: device
        )
        jax.block_until_ready(params)
    peaks["load"] = peak_gigabytes()
    keys = jax.random.split(jax.random.key(0), 2)
    text = jax.random.normal(keys[0], (TEXT, model.text.dim))
    chunk_inputs = ChunkInput(
        chunk_id=jnp.int32(0), text=text, embedding=text.mean(0), null_text=text, key=keys[1]
    )
    state = init_state(model)

    def commit(p, s, g, x):
        return write_chunk(p, model, s, g, x)[0]

    with clock.part("compile"):
        make = jax.jit(lambda p, s, g: denoise_chunk(p, model, s, g))
        make = make.lower(params, state, chunk_inputs).compile()
        latents = jax.eval_shape(
            lambda p, s, g: denoise_chunk(p, model, s, g), params, state, chunk_inputs
        )
        write = (
            jax.jit(commit, donate_argnums=1).lower(params, state, chunk_inputs, latents).compile()
        )
    peaks["compile"] = peak_gigabytes()
    with clock.part("denoise"):
        latents = jax.block_until_ready(make(params, state, chunk_inputs))
    with clock.part("memory write"):
        state = jax.block_until_ready(write(params, state, chunk_inputs, latents))
    peaks["chunk"] = peak_gigabytes()
    if not (jnp.isfinite(latents).all() and state.bank.valid.any()):
        raise UserError("the chunk has values that are not finite, or is not in the memory")
    return float(latents.std()), peaks


def report(model: ModelConfig, clock: Clock, deviation: float, peaks: dict[str, float]) -> str:
    """The numbers as lines of text."""
    grid, seconds, count = ChunkGrid.of(model), clock.seconds, model.sampler.steps
    lines = [
        f"{name}: {seconds[name]:.1f} s"
        for name in ("make", "load", "compile", "denoise", "memory write")
        if name in seconds
    ]
    return "\n".join(
        [
            " ".join(f"{k}={v}" for k, v in versions().items()) + f" {platform.platform()}",
            f"{model.name}: {model.chunk.height}x{model.chunk.width}, {grid.latents_per_chunk} latent "
            f"frames, {grid.tokens_per_chunk} tokens, {model.dit.dtype} matmuls",
            *lines,
            f"a denoising step: {seconds['denoise'] / count:.1f} s ({count} steps)",
            "peak memory, GB: " + ", ".join(f"{k} {v:.2f}" for k, v in peaks.items()),
            f"standard deviation of the latents: {deviation:.3f}",
        ]
    )


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)  # JAX tells which backends it does not find
    try:
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]!r}")
        model = small(get_preset(_PRESET.value), _SIZE.value, _STEPS.value)
        model = apply_overrides(model, _SET.value)
        check_model(model)
        clock = Clock()
        with contextlib.ExitStack() as stack:
            folder = _FOLDER.value or stack.enter_context(tempfile.TemporaryDirectory())
            path = Path(folder) / "dit.safetensors"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with clock.part("make"):
                    write_checkpoint(path, model)
            deviation, peaks = run_chunk(path, model, clock)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(model, clock, deviation, peaks))
    return 0


if __name__ == "__main__":
    app.run(main)
