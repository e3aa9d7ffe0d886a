"""The cost of storing the bank in fewer bits, as a table in Markdown:

python -m experiments.benchmarks.bank_storage --weights=bvjax/assets/mini

A story is generated with the bank in float32.  Then every chunk is made again from the same latents
before it, with the bank in each of the other forms; errors do not add up from chunk to chunk.  An
error is |x - x32| / |x32|, both norms over all of it; the mean over the chunks, or the largest.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from bvjax.config import ModelConfig
from bvjax.denoiser.context import prepare_context
from bvjax.denoiser.denoise import window_velocity
from bvjax.denoiser.types import init_state
from bvjax.diffusion import flow
from bvjax.errors import UserError
from bvjax.generate import rollout, steps
from bvjax.generate.conditions import encode_captions
from bvjax.loading.bundle import load_bundle
from bvjax.memory.storage import DTYPES
from bvjax.overrides import apply_overrides
from bvjax.presets import PRESETS
from bvjax.random import normal
from bvjax.story import load_story
from bvjax.versions import versions

_WEIGHTS = flags.DEFINE_string("weights", "bvjax/assets/mini", "Weights folder.")
_STORY = flags.DEFINE_string("story", "experiments/stories/fox.json", "Story to generate.")
_CHUNKS = flags.DEFINE_integer("chunks", 8, "How many chunks of it.", lower_bound=2)
_SET = flags.DEFINE_multi_string("set", [], "Override of the model, e.g. sampler.steps=10.")

SIGMAS = (1.0, 0.75, 0.5, 0.25)
LARGE = "wan-1.3b"  # whose bank is only counted


def in_form(model: ModelConfig, dtype: str) -> ModelConfig:
    """`model` with the bank stored so."""
    return dataclasses.replace(model, memory=dataclasses.replace(model.memory, dtype=dtype))


def bank_bytes(model: ModelConfig) -> int:
    """Returns the bytes of one empty bank, all fields."""
    bank = jax.eval_shape(lambda: init_state(model)).bank
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(bank))


@functools.partial(jax.jit, static_argnames="model")
def look(params, model, state, chunk, latents):
    """Keys and values of the context, and velocities at `SIGMAS` on the way to `latents`."""
    chunk_context = prepare_context(model, state, chunk, guided=True)
    velocity = window_velocity(params, model, chunk, chunk_context)
    noise = normal(jax.random.key(1), latents.shape)
    at = lambda sigma: velocity(flow.interpolate(latents, noise, sigma)[None], sigma)
    return (
        chunk_context.context.keys,
        chunk_context.context.values,
        jax.lax.map(at, jnp.asarray(SIGMAS)),
    )


def measure(params: Any, model: ModelConfig, conditions: Any, story: dict[int, Any]) -> list[tuple]:
    """(keys, values, velocities, latents) of each chunk behind the latents of `story`."""
    key, state, chunks = jax.random.key(0), init_state(model), []
    for chunk_id, latents in story.items():
        chunk = steps.chunk_input(conditions, key, None, max(chunk_id - 1, 0), chunk_id)
        if chunk_id:
            parts = look(params, model, state, chunk, latents)
            chunks.append((*parts, steps.denoise_program(params, model, state, chunk)))
        state, _ = steps.write_program(params, model, state, chunk, latents)
    return jax.device_get(chunks)


def table(model: ModelConfig, measured: dict[str, list[tuple]]) -> str:
    """A row for each form."""
    names = ("keys", "values", "velocity", "latents")
    lines = [
        f"| bank stored as | {model.name} | {LARGE} | {' | '.join(names)} | latents, worst chunk |",
        "|---|---:|---:|" + "---:|" * (len(names) + 1),
    ]
    for dtype, chunks in measured.items():
        errors = [
            [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(*pair, strict=True)]
            for pair in zip(chunks, measured["float32"], strict=True)
        ]
        small, large = (
            bank_bytes(in_form(m, "" if dtype == "float32" else dtype))
            for m in (model, dataclasses.replace(PRESETS[LARGE], dit=_float32(PRESETS[LARGE].dit)))
        )
        numbers = [*np.mean(errors, axis=0), np.max(errors, axis=0)[-1]]
        cells = [f"{small / 1e6:.1f} MB", f"{large / 1e9:.1f} GB", *(f"{n:.1e}" for n in numbers)]
        lines.append(f"| {dtype} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _float32(dit: Any) -> Any:
    return dataclasses.replace(dit, dtype="float32")


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)  # JAX tells which backends it does not find
    try:
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]!r}")
        bundle = load_bundle(_WEIGHTS.value)
        model = apply_overrides(bundle.model, _SET.value)
        if model.chunk.first != "separate" or not model.memory.anchor:
            raise UserError("the benchmark wants chunk.first='separate' and memory.anchor=true")
        captions = load_story(_STORY.value).chunk_captions(model.chunk.frames / model.chunk.fps)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    model = in_form(dataclasses.replace(model, dit=_float32(model.dit)), "")
    conditions = encode_captions(
        lambda: bundle.params["text"],
        model.text,
        bundle.tokenizer,
        captions[: _CHUNKS.value],
        model.guidance.negative,
    )
    params = bundle.params["dit"]
    pieces = rollout.stream(params, model, conditions, jax.random.key(0))
    story = {piece.chunk_id: np.asarray(piece.latents) for piece in pieces}
    forms = {dtype or "float32": in_form(model, dtype) for dtype in DTYPES}
    measured = {name: measure(params, form, conditions, story) for name, form in forms.items()}
    print(" ".join(f"{k}={v}" for k, v in versions().items()))
    print(f"{len(story) - 1} chunks of {_STORY.value}, {model.sampler.steps} steps each\n")
    print(table(model, measured))
    return 0


if __name__ == "__main__":
    app.run(main)
