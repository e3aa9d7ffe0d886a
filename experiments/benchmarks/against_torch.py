"""bvjax and PyTorch on the same work, interleaved:

python -m experiments.benchmarks.against_torch --preset wan-1.3b --set dit.num_layers=2

Each side runs in a process of its own with all cores, this Python and, where it has no torch,
.venv-torch; while one works the other waits.  Both have the same random weights and inputs
(`jax_side`, `torch_side`), and the results of the first calls are compared.  Told are medians of
`--repeat` turns after it, the median of their ratios, and the share of what one large matmul of
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
from experiments.benchmarks import docs, environment, metrics, options
from experiments.benchmarks.interleave import ROOT, Program, median_ratio
from experiments.benchmarks.workload import PAIRS, Workload

LARGEST_ERROR = {"float32": 2e-3, "bfloat16": 0.2}  # of the largest value
HEAD = (
    "| what | PyTorch, s | bvjax, s | speed-up | PyTorch, of its measured peak | bvjax, of its measured peak "
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
        self.peaks = [_ask(side, peak_flops=dtype) for side in self.programs]

    @property
    def programs(self) -> tuple[Program, Program]:
        return self.ours, self.theirs

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *error) -> None:
        for side in self.programs:
            side.close()

    def device(self) -> str:
        """Returns the device that both run on."""
        return _ask(self.ours, device=True)

    def compare(self, task: Workload, name: str, repeat: int, compiled: bool = False) -> Row:
        """Returns a row of the table.

        Raises:
            UserError: the results of both differ.
        """
        request = dataclasses.asdict(task)
        with tempfile.TemporaryDirectory() as folder:
            paths = [str(Path(folder) / f"{i}.npy") for i in range(2)]
            more = {"compiled": True} if compiled else {}
            first = _ask(self.ours, task=request, save=paths[0])
            _ask(self.theirs, task=request, save=paths[1], **more)
            a, b = map(np.load, paths)
        error = np.abs(a - b).max() / np.abs(b).max() if a.shape == b.shape else np.inf
        if task.pair != "attention" and not error < LARGEST_ERROR[task.dtype]:
            raise UserError(f"{name}: results differ by {error:.1e} of the largest value")
        pairs = [
            (_ask(self.ours, task=request), _ask(self.theirs, task=request, **more))
            for _ in range(repeat)
        ]
        samples = list(zip(*pairs, strict=True))
        jax_s, torch_s = map(statistics.median, samples)
        return Row(
            task=task,
            name=name + (", compiled" if compiled else ""),
            jax_s=jax_s,
            torch_s=torch_s,
            ratio=median_ratio(*samples),
            operations=_ask(self.ours, operations=request),
            first=first,
            difference="" if task.pair == "attention" else f"{error:.0e}",
        )

    def measure_peaks(self) -> None:
        """Keeps the better of this and what was measured before."""
        peaks = [_ask(side, peak_flops=self.dtype) for side in self.programs]
        self.peaks = [max(pair) for pair in zip(self.peaks, peaks, strict=True)]

    def description(self) -> str:
        versions = ", ".join(str(_ask(side, version=True)) for side in self.programs)
        ours, theirs = (rate / 1e9 for rate in self.peaks)
        return (
            f"One large {self.dtype} matmul: PyTorch {theirs:.0f} GFLOP/s, bvjax {ours:.0f} "
            f"GFLOP/s. {versions}, {environment.cores()} cores."
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison; seconds are medians, `ratio` the median of the interleaved pairs'."""

    task: Workload
    name: str
    jax_s: float
    torch_s: float
    ratio: float
    operations: float  # 0: not counted
    first: float  # seconds of our first call
    difference: str

    def markdown(self, peaks: Sequence[float]) -> str:
        """A line of the table; `peaks` are (ours, PyTorch's), in FLOP/s."""
        shares = [
            f"{self.operations / seconds / limit:.0%}" if self.operations else ""
            for seconds, limit in zip((self.torch_s, self.jax_s), peaks[::-1], strict=True)
        ]
        cells = [self.name, f"{self.torch_s:.4g}", f"{self.jax_s:.4g}", f"{self.ratio:.2f}"]
        return f"| {' | '.join([*cells, *shares, f'{self.first:.1f}', self.difference])} |"

    def note(self, peaks: Sequence[float]) -> None:
        """Adds the row to the table of metrics, with its target."""
        gpu, pair = self.task.dtype == "bfloat16", self.task.pair
        if pair == "attention":
            share = 100 * self.operations / self.jax_s / peaks[0]
            name = f"{self.name}: share of the measured ceiling"
            metrics.note(name, share, "%", 60 if gpu else None)
        targets = {"dit": 0.9, "chunk": 1.2 if gpu else 0.9, "vae": 0.9, "attention": 0.9}
        target = targets.get(pair) if not gpu or pair == "chunk" else None
        metrics.note(f"{self.name}: times as fast as PyTorch", self.ratio, "x", target)


def _ask(side: Program, **request):
    answer = side.ask(**request)
    if isinstance(answer, dict):
        raise UserError(answer["error"])
    return answer


def table(sides: Sides, tasks: Iterable[tuple[str, Workload]], repeat: int, compiled: bool) -> str:
    """All rows, printed as they come; what fails on this machine is a row that says so.

    Shares are of the best that each side's matmul has reached before or after all rows.
    """
    rows: list[Row | str] = []
    for name, task in tasks:
        with_both = compiled and task.pair in ("chunk", "minute")
        for with_compiler in (False, True) if with_both else (False,):
            try:
                rows.append(sides.compare(task, name, repeat, with_compiler))
            except UserError as error:
                rows.append(f"| {name} | {error} | | | | | | |")
            row = rows[-1]
            print(row if isinstance(row, str) else f"{row.name}: {row.ratio:.2f} x", flush=True)
    sides.measure_peaks()
    for row in rows:
        if isinstance(row, Row):
            row.note(sides.peaks)
    lines = [row if isinstance(row, str) else row.markdown(sides.peaks) for row in rows]
    text = "\n".join([HEAD, *lines, "", sides.description()])
    print(text, flush=True)
    return text


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
    add("--dtype", choices=list(LARGEST_ERROR), default="float32", help="of both sides' matmuls")
    add("--repeat", type=options.whole(), default=5, help="turns; medians are told (default: 5)")
    add("--compiled", action="store_true", help="PyTorch with torch.compile, too")
    args = parser.parse_args(argv)
    tasks = []
    for pair in args.pair or ["dit", "chunk", "vae"]:
        if pair == "attention":
            shapes = ((shape, tuple(map(int, shape.split("x")))) for shape in args.shapes)
            tasks += [
                (f"attention {s}", Workload(pair, shape=n, dtype=args.dtype)) for s, n in shapes
            ]
            continue
        for size in args.sizes or [None]:
            words = zip(("height", "width", "frames"), (size or "").split("x"), strict=False)
            overrides = [*args.set, *(f"chunk.{key}={value}" for key, value in words if value)]
            task = Workload(pair, args.weights, args.preset, tuple(overrides), dtype=args.dtype)
            tasks.append((_name(task, size), task))
    with Sides(args.dtype) as sides:
        text = table(sides, tasks, args.repeat, args.compiled)
        if args.write_docs:
            provenance = (
                environment.command("experiments.benchmarks.against_torch", argv),
                environment.versions(),
            )
            title = f"against PyTorch: {', '.join(name for name, _ in tasks)}"
            docs.write_section(sides.device(), title, docs.section(title, *provenance, text))


def _name(task: Workload, size: str | None) -> str:
    layers = [word.split("=")[1] for word in task.overrides if word.startswith("dit.num_layers=")]
    words = [task.pair, task.preset or Path(task.weights or "").name, size or ""]
    return " ".join(filter(None, words)) + (f", {layers[0]} layers" if layers else "")


if __name__ == "__main__":
    sys.exit(options.run(main))
