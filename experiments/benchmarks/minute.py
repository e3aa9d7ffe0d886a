"""A minute of video from start to end, in one process, timed part by part:

python -m experiments.benchmarks.minute --weights=bvjax/assets/mini

Included: encoding the captions, compiling every program, denoising, writing the memory, decoding,
and encoding the mp4 on disk.  Not included: starting Python, loading the weights, the report.  Each
part waits for its result, so parts do not overlap as they may in `bvjax generate`.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from bvjax.errors import UserError
from bvjax.files import write_atomic
from bvjax.generate import rollout, steps, video_io
from bvjax.generate.bundle import Bundle, load_bundle
from bvjax.generate.conditions import encode_captions
from bvjax.generate.session import versions
from bvjax.nets import vae
from bvjax.overrides import apply_overrides
from bvjax.story import load_story
from experiments.benchmarks.clock import Clock, peak_gigabytes

_WEIGHTS = flags.DEFINE_string("weights", "bvjax/assets/mini", "Weights folder.")
_STORY = flags.DEFINE_string("story", "experiments/stories/fox.json", "Story to generate.")
_REPEAT = flags.DEFINE_integer("repeat", 1, "How many minutes; compiled once.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "Also write the numbers to this JSON file.")
_SET = flags.DEFINE_multi_string("set", [], "Override of the model, e.g. sampler.steps=10.")

FLAT = (5, 15)  # chunks whose time is compared: it should not grow


class Programs:
    """The programs of `bvjax.generate`, compiled before they run so that both can be timed."""

    def __init__(self, bundle: Bundle, model: Any, conditions: Any):
        given = _given(conditions, 0, 0)
        dit, pixels = bundle.params["dit"], bundle.params["vae"]
        state = steps.init_state(model)
        chunk = model.chunk

        def build(function, *args, **options):
            return jax.jit(function, **options).lower(*args).compile()

        self.anchor = build(lambda p, g: steps.anchor_step(p, model, g), dit, given)
        guidance = jax.eval_shape(lambda p, g: steps.anchor_step(p, model, g), dit, given)
        self.denoise = build(lambda p, s, g: steps.denoise(p, model, s, g), dit, state, given)
        latents = jax.eval_shape(lambda p, s, g: steps.denoise(p, model, s, g), dit, state, given)

        def commit(p, s, g, x):
            return steps.commit(p, model, s, g, x)[0]

        self.commit_guidance = build(commit, dit, state, given, guidance, donate_argnums=1)
        self.commit = build(commit, dit, state, given, latents, donate_argnums=1)

        def decode(first):
            def run(p, s, x):
                s, frames = vae.decode_stream(p, model.vae, s, x[None], first=first)
                return s, vae.to_uint8(frames[0])

            return run

        decoder = vae.init_decode_state(model.vae, 1, chunk.height, chunk.width)
        self.decode_first = build(decode(True), pixels, decoder, guidance)
        self.decode = build(decode(False), pixels, decoder, latents)


def _given(conditions: Any, row: int, chunk_id: int) -> steps.ChunkInput:
    return rollout._given(conditions, jax.random.key(0), None, row, chunk_id)


def minute(
    bundle: Bundle, model: Any, captions: tuple[str, ...], programs: Programs | None
) -> dict:
    """Generates, decodes and writes the whole story once; returns times and the programs."""
    clock, chunk = Clock(), model.chunk
    params, chunk_seconds, frames = bundle.params, [], 0

    def texts():
        return encode_captions(
            params["text"], model.text, bundle.tokenizer, captions, model.cfg.negative
        )

    if programs is None:
        with clock.part("compile"):
            programs = Programs(bundle, model, jax.block_until_ready(texts()))
    with clock.part("text"):
        conditions = jax.block_until_ready(texts())
    state = steps.init_state(model)
    decoder = vae.init_decode_state(model.vae, 1, chunk.height, chunk.width)
    scale = video_io.watchable_scale(chunk.height, chunk.width)
    with (
        tempfile.TemporaryDirectory() as folder,
        video_io.VideoWriter(Path(folder) / "video.mp4", chunk.fps, scale) as writer,
    ):
        for number in range(len(captions) + 1):
            start, first = time.perf_counter(), number == 0
            given = _given(conditions, max(number - 1, 0), number)
            with clock.part("denoise"):
                make = (programs.anchor, (given,)) if first else (programs.denoise, (state, given))
                latents = jax.block_until_ready(make[0](params["dit"], *make[1]))
            if not first or model.memory.anchor:
                with clock.part("memory write"):
                    write = programs.commit_guidance if first else programs.commit
                    state = jax.block_until_ready(write(params["dit"], state, given, latents))
            with clock.part("decode"):
                decode = programs.decode_first if first else programs.decode
                decoder, pixels = jax.block_until_ready(decode(params["vae"], decoder, latents))
            with clock.part("encode mp4"):
                writer.write(np.asarray(pixels))
            frames += len(pixels)
            chunk_seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    clock.seconds["encode mp4"] += time.perf_counter() - start
    return {
        "frames": frames, "seconds": dict(clock.seconds), "chunk_seconds": chunk_seconds,
        "programs": programs,
    }  # fmt: skip


def report(runs: list[dict], about: dict[str, str]) -> str:
    """The numbers as lines of text."""
    lines = [" ".join(f"{k}={v}" for k, v in about.items())]
    for i, run in enumerate(runs):
        parts = run["seconds"]
        work = sum(v for k, v in parts.items() if k != "compile")
        listed = ", ".join(f"{name} {value:.2f} s" for name, value in parts.items())
        lines.append(f"minute {i + 1}: {run['frames']} frames; {listed}")
        lines.append(f"  {work:.1f} s without compilation, {sum(parts.values()):.1f} s with it")
        each = run["chunk_seconds"]
        lines.append("  seconds a chunk: " + " ".join(f"{s:.2f}" for s in each[1:]))
        if len(each) > max(FLAT):
            early, late = (each[n] for n in FLAT)
            lines.append(
                f"  chunk {FLAT[1]} took {late / early:.3f} times as long as chunk {FLAT[0]}"
            )
    lines.append(f"peak memory of the process: {peak_gigabytes():.2f} GB")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)  # JAX tells which backends it does not find
    try:
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]!r}")
        bundle = load_bundle(_WEIGHTS.value)
        bundle = dataclasses.replace(bundle, params=dict(bundle.params))  # read now, not when timed
        model = apply_overrides(bundle.model, _SET.value)
        if model.chunk.first != "separate":
            raise UserError(f"chunk.first is {model.chunk.first!r}; the benchmark times 'separate'")
        captions = load_story(_STORY.value).chunk_captions(model.chunk.frames / model.chunk.fps)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runs, programs = [], None
    for _ in range(_REPEAT.value):
        run = minute(bundle, model, captions, programs)
        programs = run.pop("programs")
        runs.append(run)
    about = {**versions(), "platform": platform.platform(), "steps": str(model.sampler.steps)}
    print(report(runs, about))
    if _OUT.value:
        content = {"about": about, "runs": runs, "peak_gigabytes": peak_gigabytes()}
        write_atomic(Path(_OUT.value), (json.dumps(content, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    app.run(main)
