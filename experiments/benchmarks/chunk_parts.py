"""The cost of a video, part by part, on the default device:

python -m experiments.benchmarks.chunk_parts --weights bvjax/assets/mini
python -m experiments.benchmarks.chunk_parts --preset self-forcing --chunks 5 --full-memory

With a preset, weights are random and of its shapes; sizes are overrides, as elsewhere (`--set
chunk.height=256`).  `--vs-torch` adds the same work in PyTorch, interleaved (see `against_torch`).
`--write-docs` puts the tables into docs/performance.md.

Included: a forward pass of the text encoder per caption, each denoising step with its guidance,
retrieval (also alone), building and writing of memory entries, decoding to uint8 on the host, H.264.
Not included: starting Python, loading weights, the report.  Each part waits for its result, so parts
do not overlap as they may in `bvjax generate`.  Compilation is told apart and made anew, with the
persistent cache off.  Operations are counted from shapes (`work`); the measured peak ("the ceiling" of the
tables) is what one large matmul of the same dtype reaches here.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bvjax.chips import chip_of
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.types import init_state
from bvjax.errors import UserError
from bvjax.nets import vae
from bvjax.weights import PARTS
from experiments.benchmarks import docs, environment, inputs, models, options, peak_flops, work
from experiments.benchmarks.chunk_parts_table import Measured, report
from experiments.benchmarks.clock import Clock
from experiments.benchmarks.programs import Programs


def measure(model: ModelConfig, params: dict[str, Any], chunks: int, full: bool) -> Measured:
    """Generates `chunks` chunks part by part; with `full` as if they came late in a video."""
    if model.chunk.first == "overlap":
        raise UserError("chunk.first is 'overlap'; the benchmark times 'separate' and 'joined'")
    if model.memory.offload != "none":
        raise UserError(f"memory.offload is {model.memory.offload!r}; the benchmark times 'none'")
    first_id = ChunkGrid.of(model).first_id
    start = inputs.steady_chunk(model) if full else first_id
    chunk_inputs = inputs.chunk_input(model, start)
    programs = Programs(model, params, chunk_inputs)
    state = inputs.full_state(model, start) if full else init_state(model)
    text, decoder = None, None
    if "vae" in params:
        size = model.chunk.height, model.chunk.width
        decoder = vae.init_decode_state(model.vae, 1, *size)
    if "text" in params:
        ids = np.ones((1, model.text.max_length), np.int32)
        runs = (_seconds(programs.text, params["text"], ids, ids > 0) for _ in range(3))
        text = statistics.median(runs)
    chunk_seconds = []
    with tempfile.TemporaryDirectory() as folder, _writer(Path(folder), model) as write:
        numbers = ([0] if first_id else []) + list(range(start, start + chunks))
        for number in numbers:
            clock, anchor = Clock(), first_id and number == 0
            chunk_inputs = inputs.chunk_input(model, number)
            with clock.part("denoise"):
                if anchor:
                    latents = programs.anchor(params["dit"], chunk_inputs)
                else:
                    latents = programs.denoise(params["dit"], state, chunk_inputs)
                jax.block_until_ready(latents)
            with clock.part("write memory"):
                write_memory = programs.write_anchor if anchor else programs.write
                if write_memory is not None and not (anchor and full):
                    state = jax.block_until_ready(
                        write_memory(params["dit"], state, chunk_inputs, latents)
                    )
            if "vae" in params:
                with clock.part("decode"):
                    decode = programs.decode if chunk_seconds else programs.decode_first
                    decoder, pixels = decode(params["vae"], decoder, latents)
                    pixels = np.asarray(pixels)
                with clock.part("write mp4"):
                    write(pixels)
            chunk_seconds.append(dict(clock.seconds))
    last = inputs.chunk_input(model, numbers[-1] + 1)
    return Measured(
        model,
        chunk_seconds,
        text,
        retrieve=statistics.median(
            _seconds(programs.prepare_context, state, last) for _ in range(3)
        ),
        context_rows=work.context_rows(model, state, last),
        compile=programs.seconds,
        mp4=write is not _no_mp4,
    )


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
            from bvjax.media import video_io
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


def main(argv: Sequence[str]) -> None:
    parser = options.parser(__doc__)
    add = parser.add_argument
    add("--chunks", type=options.whole(), default=15, help="to generate (default: 15)")
    add("--full-memory", action="store_true", help="begin with a memory that is full")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="of the model (default: all)")
    add("--vs-torch", action="store_true", help="compare with PyTorch first (`against_torch`)")
    args = parser.parse_args(argv)
    if args.vs_torch:  # before JAX takes the memory of the device here
        _against_torch(args)
    jax.config.update("jax_enable_compilation_cache", False)
    parts = dict.fromkeys(("dit", *args.parts))
    model, params = models.load(args.weights, args.preset, args.set, parts)
    before = peak_flops.measured(model.dit.dtype)
    result = measure(model, params, args.chunks, args.full_memory)
    measured = max(before, peak_flops.measured(model.dit.dtype))  # other work comes and goes
    chip = chip_of(jax.devices()[0].device_kind)
    name = "the ceiling" if chip is None else "the published peak"
    text = report(result, measured if chip is None else chip.flops, name)
    text += f"\n- one large {model.dit.dtype} matmul: {work.in_words(measured)} a second, measured"
    print(text)
    if args.write_docs:
        provenance = (
            environment.command("experiments.benchmarks.chunk_parts", argv),
            environment.versions("av"),
        )
        title = f"{model.name}, {model.chunk.height}x{model.chunk.width}, part by part"
        docs.write_section(environment.device(), title, docs.section(title, *provenance, text))


def _against_torch(args) -> None:
    words = [word for text in args.set for word in ("--set", text)]
    for name in ("weights", "preset"):
        words += [f"--{name}", getattr(args, name)] if getattr(args, name) else []
    words += ["--write-docs"] * args.write_docs
    command = [sys.executable, "-m", "experiments.benchmarks.against_torch", *words]
    if subprocess.run(command).returncode:
        raise UserError("the comparison with PyTorch failed; see above")


if __name__ == "__main__":
    sys.exit(options.run(main))
