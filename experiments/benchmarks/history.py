"""The cost of a chunk by its place in the video, with three memories:

python -m experiments.benchmarks.history --weights bvjax/assets/mini

  semantic  the model's own: the anchor, `recent` last chunks and the `l` most alike in a bank
  rolling   as many entries, but always the latest
  full      all that came before, every token of it: what attention over the whole history costs

Told are the median seconds of a denoising step of the chunk (both branches of guidance, retrieval and
assembly a share of it) and the bytes of the bank.  The memory of a full history grows, so each chunk
is a program of its own.  `--write-docs` draws the picture, too.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.denoise import denoise_chunk
from experiments.benchmarks import docs, environment, inputs, models, options

MODES = ("semantic", "rolling", "full")
PICTURE = "performance_chunks.png"


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one chunk."""

    step: float  # seconds of a denoising step
    bank: float  # bytes


def variant(model: ModelConfig, mode: str, chunk: int) -> ModelConfig:
    """`model` with the memory of `mode`; with `full` of as many slots as chunk `chunk` sees."""
    if mode != "full":
        retrieval = dataclasses.replace(model.retrieval, kind=mode)
        return dataclasses.replace(model, retrieval=retrieval)
    past = chunk - max(ChunkGrid.of(model).first_id, int(model.memory.anchor))
    recent = min(model.retrieval.num_recent, past)
    retrieval = dataclasses.replace(
        model.retrieval,
        kind="semantic",
        num_recent=recent,
        num_retrieved=past - recent,
        dense_recent=False,
    )
    memory = dataclasses.replace(
        model.memory,
        slots=model.memory.anchor + past + 1,
        tau=1.0,
        capacity=ChunkGrid.of(model).tokens_per_chunk,
    )
    return dataclasses.replace(model, retrieval=retrieval, memory=memory)


def costs(
    model: ModelConfig, params: Any, mode: str, chunks: Sequence[int], repeat: int
) -> dict[int, Cost]:
    """Returns the cost of each of `chunks` with the memory of `mode`."""
    results, programs = {}, {}
    for chunk in chunks:
        changed = variant(model, mode, chunk)
        state, chunk_inputs = inputs.full_state(changed, chunk), inputs.chunk_input(changed, chunk)
        if changed not in programs:
            run = lambda p, s, g, changed=changed: denoise_chunk(p, changed, s, g)
            programs[changed] = jax.jit(run).lower(params, state, chunk_inputs).compile()
        seconds = []
        for _ in range(repeat):
            start = time.perf_counter()
            jax.block_until_ready(programs[changed](params, state, chunk_inputs))
            seconds.append(time.perf_counter() - start)
        step = statistics.median(seconds) / changed.sampler.steps
        results[chunk] = Cost(step, sum(x.nbytes for x in (state.bank.keys, state.bank.values)))
    return results


def table(results: dict[str, dict[int, Cost]]) -> str:
    """Seconds and bytes of each chunk by mode."""
    chunks = list(next(iter(results.values())))
    lines = ["| memory | | " + " | ".join(f"chunk {c}" for c in chunks) + " |"]
    lines.append("|---|---|" + "---:|" * len(chunks))
    for mode, by_chunk in results.items():
        times = " | ".join(f"{1e3 * cost.step:.1f}" for cost in by_chunk.values())
        sizes = " | ".join(f"{cost.bank / 1e6:.4g}" for cost in by_chunk.values())
        lines += [f"| {mode} | ms a step | {times} |", f"| {mode} | bank, MB | {sizes} |"]
    return "\n".join(lines)


def draw(results: dict[str, dict[int, Cost]], path: Path, title: str) -> None:
    """Both as curves over the chunk's number."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for mode, by_chunk in results.items():
        style = dict(marker="o", label=mode, linestyle="--" if mode == "rolling" else "-")
        left.plot(list(by_chunk), [1e3 * cost.step for cost in by_chunk.values()], **style)
        right.plot(list(by_chunk), [cost.bank / 1e6 for cost in by_chunk.values()], **style)
    for axes, name in ((left, "a denoising step, ms"), (right, "the bank, MB")):
        axes.set(xlabel="chunk", ylabel=name, ylim=(0, None))
        axes.grid(alpha=0.3)
    left.legend()
    figure.suptitle(title, fontsize=10)
    FigureCanvasAgg(figure).print_figure(str(path), dpi=110)


def main(argv: Sequence[str]) -> None:
    parser = options.parser(__doc__)
    add = parser.add_argument
    add("--chunks", nargs="+", type=options.whole(2), default=[2, 4, 8, 15, 30, 60], help="which")
    add("--repeat", type=options.whole(), default=5, help="times; the median is told (default: 5)")
    args = parser.parse_args(argv)
    model, params = models.load(args.weights, args.preset, args.set, ("dit",))
    chunks = sorted(set(args.chunks))
    results = {mode: costs(model, params["dit"], mode, chunks, args.repeat) for mode in MODES}
    text = table(results)
    print(text)
    if args.write_docs:
        device = environment.device()
        draw(results, docs.PATH.parent / PICTURE, f"{model.name}, {device}")
        provenance = (
            environment.command("experiments.benchmarks.history", argv),
            environment.versions(),
        )
        text += f"\n\n![cost against the chunk's number]({PICTURE})"
        title = f"{model.name}, cost against the chunk's number"
        docs.write_section(device, title, docs.section(title, *provenance, text))


if __name__ == "__main__":
    sys.exit(options.run(main))
