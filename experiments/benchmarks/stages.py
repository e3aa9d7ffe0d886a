"""What a video costs, part by part, on the default device:

python -m experiments.benchmarks.stages --weights=bvjax/assets/mini
python -m experiments.benchmarks.stages --preset=self-forcing --chunks=5 --full-memory

With a preset, weights are random and of its shapes; sizes are overrides, as elsewhere (`--set
chunk.height=256`).  `--vs-torch` adds the same work in PyTorch, by turns (see `against_torch`).
`--write-docs` puts the tables into docs/performance.md.

Included: a forward pass of the text encoder per caption, each denoising step with its guidance,
retrieval (also alone), building and writing of memory entries, decoding to uint8 on the host, H.264.
Not included: starting Python, loading weights, the report.  Each part waits for its result, so parts
do not overlap as they may in `bvjax generate`.  Compilation is told apart and made anew, with the
persistent cache off.  Operations are counted from shapes (`flops`); the ceiling is what one large
product of the same dtype reaches here.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.generate import steps
from bvjax.nets import vae
from experiments.benchmarks import about, ceiling, docs, flops, inputs, models
from experiments.benchmarks.clock import Clock
from experiments.benchmarks.programs import Programs
from experiments.benchmarks.stage_table import Measured, report

_WEIGHTS = flags.DEFINE_string("weights", None, "Weights folder; or give --preset.")
_PRESET = flags.DEFINE_string("preset", None, "Whose shapes random weights get.")
_SET = flags.DEFINE_multi_string("set", [], "Override of the model, e.g. sampler.steps=10.")
_CHUNKS = flags.DEFINE_integer("chunks", 15, "Chunks to generate.", lower_bound=1)
_FULL = flags.DEFINE_bool("full-memory", False, "Begin with a memory that is full.")
_NO_TEXT = flags.DEFINE_bool("no-text", False, "Neither make nor run the text encoder.")
_DOCS = flags.DEFINE_bool("write-docs", False, "Put the result into docs/performance.md.")
_VS_TORCH = flags.DEFINE_bool("vs-torch", False, "Compare with PyTorch as well.")


def measure(model: ModelConfig, params: dict[str, Any], chunks: int, full: bool) -> Measured:
    """Generates `chunks` chunks part by part; with `full` as if they came late in a video."""
    if model.chunk.first == "overlap":
        raise UserError("chunk.first is 'overlap'; the benchmark times 'separate' and 'joined'")
    first_id = int(model.chunk.first == "separate")
    start = inputs.steady_chunk(model) if full else first_id
    given = inputs.chunk_input(model, start)
    programs = Programs(model, params, given)
    state = inputs.full_state(model, start) if full else steps.init_state(model)
    decoder = vae.init_decode_state(model.vae, 1, model.chunk.height, model.chunk.width)
    text = None
    if "text" in params:
        ids = np.ones((1, model.text.max_length), np.int32)
        runs = (_seconds(programs.text, params["text"], ids, ids > 0) for _ in range(3))
        text = statistics.median(runs)
    made, frames = [], []
    with tempfile.TemporaryDirectory() as folder, _writer(Path(folder), model) as write:
        numbers = ([0] if first_id else []) + list(range(start, start + chunks))
        for number in numbers:
            clock, anchor = Clock(), first_id and number == 0
            given = inputs.chunk_input(model, number)
            with clock.part("denoise"):
                if anchor:
                    latents = programs.anchor(params["dit"], given)
                else:
                    latents = programs.denoise(params["dit"], state, given)
                jax.block_until_ready(latents)
            with clock.part("write memory"):
                commit = programs.commit_anchor if anchor else programs.commit
                if commit is not None and not (anchor and full):
                    state = jax.block_until_ready(commit(params["dit"], state, given, latents))
            with clock.part("decode"):
                decode = programs.decode if frames else programs.decode_first
                decoder, pixels = decode(params["vae"], decoder, latents)
                pixels = np.asarray(pixels)
            with clock.part("write mp4"):
                write(pixels)
            made.append(dict(clock.seconds))
            frames.append(len(pixels))
    last = inputs.chunk_input(model, numbers[-1] + 1)
    return Measured(
        model, made, frames, text,
        retrieve=statistics.median(_seconds(programs.look_back, state, last) for _ in range(3)),
        context_rows=flops.context_rows(model, state, last), compile=programs.seconds,
        mp4=write is not _no_mp4,
    )  # fmt: skip


def _seconds(program, *args) -> float:
    clock = Clock()
    with clock.part("one"):
        jax.block_until_ready(program(*args))
    return clock.seconds["one"]


def _no_mp4(pixels) -> None:
    """PyAV is missing."""


class _writer:
    """Writes frames to an mp4, where PyAV is installed."""

    def __init__(self, folder: Path, model: ModelConfig):
        try:
            from bvjax.generate import video_io
        except ImportError:
            self._video = None
            return
        chunk = model.chunk
        scale = video_io.watchable_scale(chunk.height, chunk.width)
        self._video = video_io.VideoWriter(folder / "video.mp4", chunk.fps, scale)

    def __enter__(self):
        return _no_mp4 if self._video is None else self._video.__enter__().write

    def __exit__(self, *error):
        if self._video is not None:
            self._video.__exit__(*error)


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)  # JAX tells which backends it does not find
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]!r}")
        parts = ("dit", "vae") if _NO_TEXT.value else ("dit", "vae", "text")
        model, params = models.load(_WEIGHTS.value, _PRESET.value, _SET.value, parts)
        before = ceiling.measured(model.dit.dtype)
        found = measure(model, params, _CHUNKS.value, _FULL.value)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    published = ceiling.published_peak(jax.devices()[0].device_kind)
    measured = max(before, ceiling.measured(model.dit.dtype))  # other work comes and goes
    name = "the ceiling" if published is None else "the published peak"
    text = report(found, published or measured, name)
    text += (
        f"\n- one large {model.dit.dtype} product: {flops.in_words(measured)} a second, measured"
    )
    print(text)
    if _DOCS.value:
        made = about.command("experiments.benchmarks.stages"), about.versions("av")
        title = f"{model.name}, part by part"
        docs.write_section(about.device(), title, docs.section(title, *made, text))
    if _VS_TORCH.value:
        from experiments.benchmarks import against_torch

        del params
        against_torch.compare_model(_WEIGHTS.value, _PRESET.value, _SET.value, _DOCS.value)
    return 0


if __name__ == "__main__":
    app.run(main)
