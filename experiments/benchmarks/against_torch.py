"""bvjax and PyTorch on the same work, by turns:

python -m experiments.benchmarks.against_torch --preset wan-1.3b --set dit.num_layers=2

Each side runs in a process of its own with all cores, this Python and, where it has no torch,
.venv-torch; while one works the other waits.  Both have the same random weights and inputs
(`jax_side`, `torch_side`), and the results of the first calls are compared.  Told are medians of
`--repeat` turns after it, the median of their ratios, and the share of what one large product of
that dtype reaches in that framework on this machine.  Floating-point operations count the rows that
are there.

  dit     one pass over a chunk's latents without context (diffusers' WanTransformer3DModel)
  chunk   a chunk step behind a full memory: denoising and the clean pass (`torch_chunk`); bvjax also
          retrieves, packs, scores and writes, PyTorch is given the context
  vae     a chunk's latents to frames (diffusers' AutoencoderKLWan)
  text    a caption (transformers' UMT5EncoderModel)
  minute  15 chunk steps and the decoding of their frames, without captions and mp4
  attention  alone, of --shapes
"""

from __future__ import annotations

import dataclasses
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from bvjax.errors import UserError
from experiments.benchmarks import about, docs, figures, options
from experiments.benchmarks.task import PAIRS, Task
from experiments.benchmarks.turns import ROOT, Program, median_ratio

LARGEST_ERROR = {"float32": 2e-3, "bfloat16": 0.2}  # of the largest value
HEAD = (
    "| what | PyTorch, s | bvjax, s | speed-up | PyTorch, of its ceiling | bvjax, of its ceiling "
    "| bvjax's first call, s | difference |\n|---|---:|---:|---:|---:|---:|---:|---:|"
)


class Sides:
    """Both processes; use it as a context manager."""

    def __init__(self, dtype: str):
        python = sys.executable
        if importlib.util.find_spec("torch") is None:
            python = ROOT / ".venv-torch/bin/python"
        self.ours = Program(sys.executable, "experiments.benchmarks.jax_side")
        self.theirs = Program(python, "experiments.benchmarks.torch_side")
        self.dtype = dtype
        self.ceilings = [_ask(side, ceiling=dtype) for side in self.both]

    @property
    def both(self) -> tuple[Program, Program]:
        return self.ours, self.theirs

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *error) -> None:
        for side in self.both:
            side.close()

    def device(self) -> str:
        """That both run on."""
        return _ask(self.ours, device=True)

    def compare(self, task: Task, name: str, repeat: int, compiled: bool = False) -> str:
        """A row of the table.

        Raises:
            UserError: the results of both differ.
        """
        asked = dataclasses.asdict(task)
        with tempfile.TemporaryDirectory() as folder:
            paths = [str(Path(folder) / f"{i}.npy") for i in range(2)]
            more = {"compiled": True} if compiled else {}
            first = _ask(self.ours, task=asked, save=paths[0])
            _ask(self.theirs, task=asked, save=paths[1], **more)
            a, b = map(np.load, paths)
        error = np.abs(a - b).max() / np.abs(b).max() if a.shape == b.shape else np.inf
        if task.pair != "attention" and not error < LARGEST_ERROR[task.dtype]:
            raise UserError(f"{name}: results differ by {error:.1e} of the largest value")
        pairs = [
            (_ask(self.ours, task=asked), _ask(self.theirs, task=asked, **more))
            for _ in range(repeat)
        ]
        turns = list(zip(*pairs, strict=True))
        jax_s, torch_s = map(statistics.median, turns)
        ratio, operations = median_ratio(*turns), _ask(self.ours, operations=asked)
        shares = [
            f"{operations / s / limit:.0%}" if operations else ""
            for s, limit in zip((torch_s, jax_s), self.ceilings[::-1], strict=True)
        ]
        how = ", compiled" if compiled else ""
        _note(task, name + how, ratio, operations / jax_s / self.ceilings[0])
        difference = "" if task.pair == "attention" else f"{error:.0e}"
        cells = [name + how, f"{torch_s:.4g}", f"{jax_s:.4g}", f"{ratio:.2f}", *shares]
        return f"| {' | '.join([*cells, f'{first:.1f}', difference])} |"

    def measure_ceilings(self) -> str:
        """A line about both; of two measurements, before and after, the better."""
        again = [_ask(side, ceiling=self.dtype) for side in self.both]
        best = [max(pair) for pair in zip(self.ceilings, again, strict=True)]
        versions = ", ".join(str(_ask(side, version=True)) for side in self.both)
        return (
            f"One large {self.dtype} product: PyTorch {best[1] / 1e9:.0f} GFLOP/s, bvjax "
            f"{best[0] / 1e9:.0f} GFLOP/s. {versions}, {about.cores()} cores."
        )


def _ask(side: Program, **request):
    answer = side.ask(**request)
    if isinstance(answer, dict):
        raise UserError(answer["error"])
    return answer


def table(sides: Sides, tasks: Iterable[tuple[str, Task]], repeat: int, compiled: bool) -> str:
    """All rows, printed as they come; what fails on this machine is a row that says so."""
    print(HEAD, flush=True)
    rows = []
    for name, task in tasks:
        both = compiled and task.pair in ("chunk", "minute")
        for with_compiler in (False, True) if both else (False,):
            try:
                rows.append(sides.compare(task, name, repeat, with_compiler))
            except UserError as error:
                rows.append(f"| {name} | {error} | | | | | | |")
            print(rows[-1], flush=True)
    last = sides.measure_ceilings()
    print(f"\n{last}", flush=True)
    return "\n".join([HEAD, *rows, "", last])


def _note(task: Task, name: str, ratio: float, share: float) -> None:
    gpu = task.dtype == "bfloat16"
    if task.pair == "attention":
        figures.note(
            f"{name}: share of the measured ceiling", 100 * share, "%", 60 if gpu else None
        )
    targets = {"dit": 0.9, "chunk": 1.2 if gpu else 0.9, "vae": 0.9, "attention": 0.9}
    target = targets.get(task.pair) if not gpu or task.pair == "chunk" else None
    figures.note(f"{name}: times as fast as PyTorch", ratio, "x", target)


def main(argv: Sequence[str]) -> None:
    parser = options.parser(__doc__)
    add = parser.add_argument
    add("--pair", action="append", choices=PAIRS, help="may be repeated (default: dit, chunk, vae)")
    add(
        "--shapes",
        nargs="+",
        default=["4096x4096x12x128"],
        help="of attention: n x keys x heads x width",
    )
    add("--sizes", nargs="+", metavar="HxWxF", help="of a chunk: height x width x frames, pixels")
    add("--dtype", choices=list(LARGEST_ERROR), default="float32", help="of both sides' products")
    add("--repeat", type=options.whole(), default=5, help="turns; medians are told (default: 5)")
    add("--compiled", action="store_true", help="PyTorch with torch.compile, too")
    args = parser.parse_args(argv)
    tasks = []
    for pair in args.pair or ["dit", "chunk", "vae"]:
        if pair == "attention":
            shapes = ((shape, tuple(map(int, shape.split("x")))) for shape in args.shapes)
            tasks += [(f"attention {s}", Task(pair, shape=n, dtype=args.dtype)) for s, n in shapes]
            continue
        for size in args.sizes or [None]:
            words = zip(("height", "width", "frames"), (size or "").split("x"), strict=False)
            overrides = [*args.set, *(f"chunk.{key}={value}" for key, value in words if value)]
            task = Task(pair, args.weights, args.preset, tuple(overrides), dtype=args.dtype)
            tasks.append((_name(task, size), task))
    with Sides(args.dtype) as sides:
        text = table(sides, tasks, args.repeat, args.compiled)
        if args.write_docs:
            made = about.command("experiments.benchmarks.against_torch", argv), about.versions()
            title = f"against PyTorch: {', '.join(name for name, _ in tasks)}"
            docs.write_section(sides.device(), title, docs.section(title, *made, text))


def _name(task: Task, size: str | None) -> str:
    layers = [word.split("=")[1] for word in task.overrides if word.startswith("dit.num_layers=")]
    words = [task.pair, task.preset or Path(task.weights or "").name, size or ""]
    return " ".join(filter(None, words)) + (f", {layers[0]} layers" if layers else "")


if __name__ == "__main__":
    sys.exit(options.run(main))
