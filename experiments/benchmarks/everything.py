"""All benchmarks of a machine in one command, each with its own time limit:

python -m experiments.benchmarks.everything cpu
python -m experiments.benchmarks.everything accelerator --out runs/accelerator

`run_cpu.sh` and `run_accelerator.sh` call it.  What fails or takes too long loses nothing of the
rest.  In the folder OUT: performance.md (docs/performance.md with this device's sections, after
every part), metrics.md (the one table, with targets) and a log of each part.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks import docs, metrics
from experiments.benchmarks.environment import versions

ROOT = Path(__file__).resolve().parents[2]
HERE = "experiments.benchmarks."
MINI = ("--weights", "bvjax/assets/mini")


@dataclasses.dataclass(frozen=True)
class Part:
    """A module to run.

    Attributes:
        limit: seconds after which it is stopped.
        record: it writes no section itself; what it prints becomes one.
        torch: needs PyTorch, here or in .venv-torch, on the device that JAX has.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    limit: float = 120
    record: bool = False
    torch: bool = False


def _set(*overrides: str) -> tuple[str, ...]:
    return tuple(word for override in overrides for word in ("--set", override))


# One layer of the 1.3B model at full width, float32, 4 chunks of memory.
WIDE = (
    "--preset", "wan-1.3b",
    *_set("dit.num_layers=1", "dit.remat=none", "chunk.first=joined", "memory.anchor=false",
          "memory.slots=5", "guidance.scale=1.0", "sampler.steps=2"),
)  # fmt: skip
FEW = ("--preset", "self-forcing", *_set("vae.dtype=bfloat16", "dit.remat=none"))
TINY = _set(
    "dit.dim=48", "dit.num_heads=2", "dit.num_layers=2", "dit.ffn_dim=64", "dit.freq_dim=16",
    "text.dim=16", "text.max_length=8", "text.num_layers=1", "text.num_heads=2", "text.head_dim=8",
    "text.ffn_dim=16", "text.vocab_size=64", "vae.dim=8", "vae.num_res_blocks=1",
    "chunk.height=32", "chunk.width=48", "chunk.frames=12", "memory.capacity=18",
)  # fmt: skip

CPU = (
    Part("mini, stages", HERE + "chunk_parts", (*MINI, "--write-docs"), 300),
    Part("mini, by chunk", HERE + "history", (*MINI, *_set("sampler.steps=5"), "--write-docs"), 300),
    Part("mini, training", HERE + "training_step", (*MINI, *_set("dit.remat=dots"), "--write-docs"), 300),
    Part("mini against PyTorch", HERE + "against_torch",
         (*MINI, "--pair", "chunk", "--pair", "vae", "--pair", "text", "--write-docs"), 240,
         torch=True),
    Part("mini minute against PyTorch", HERE + "against_torch",
         (*MINI, "--pair", "minute", *_set("sampler.steps=4"), "--write-docs"), 240, torch=True),
    Part("DiT against PyTorch", HERE + "against_torch",
         (*WIDE, "--pair", "dit", "--sizes", "256x320x12", "384x448x12", "480x704x12", "480x704x24",
          "--write-docs"), 400, torch=True),
    Part("chunk step against PyTorch", HERE + "against_torch",
         (*WIDE, *_set("memory.capacity=960"), "--pair", "chunk", "--sizes", "256x320x12",
          "--write-docs"), 200, torch=True),
    Part("VAE against PyTorch", HERE + "against_torch",
         (*WIDE, "--pair", "vae", "--sizes", "128x128x12", "--write-docs"), 240, torch=True),
    Part("attention against PyTorch", HERE + "attention", (), 240, record=True, torch=True),
    Part("kernels", HERE + "kernels", (), 120, record=True),
    Part("storage of the bank", HERE + "bank_storage", (), 120, record=True),
    Part("LV-Bench, suite paper", HERE + "paper_suite", (), 240, record=True),
    Part("LV-Bench's networks against PyTorch", HERE + "metric_networks", ("--write-docs",), 600,
         torch=True),
)  # fmt: skip
ACCELERATOR = (
    Part("tests/accelerator", "pytest",
         ("--confcutdir=tests/accelerator", "tests/accelerator", "-q", "-rs"), 90, record=True),
    Part("attention against PyTorch", HERE + "against_torch",
         ("--pair", "attention", "--dtype", "bfloat16", "--shapes", "25600x102400x12x128",
          "4680x32760x12x128", "--write-docs"), 50, torch=True),
    Part("self-forcing, stages", HERE + "chunk_parts",
         (*FEW, "--parts", "dit", "vae", "--chunks", "6", "--full-memory", "--write-docs"), 140),
    Part("wan-1.3b, chunk step", HERE + "chunk_parts",
         ("--preset", "wan-1.3b",
          *_set("memory.slots=6", "sampler.steps=2", "dit.remat=none"),
          "--parts", "dit", "--chunks", "2", "--full-memory", "--write-docs"), 110),
    Part("self-forcing against PyTorch", HERE + "against_torch",
         (*FEW, "--pair", "chunk", "--dtype", "bfloat16", "--compiled", "--write-docs"), 140,
         torch=True),
    Part("kernels", HERE + "kernels", (), 50, record=True),
)  # fmt: skip
PARTS = {"cpu": CPU, "accelerator": ACCELERATOR}


def tiny(part: Part) -> Part:
    """The same command on tiny sizes: does everything run on this machine at all."""
    words = list(part.arguments)
    if "--shapes" in words:
        words = words[: words.index("--shapes")] + ["--shapes", "64x96x2x32", "--write-docs"]
    if "--sizes" in words:
        first = words.index("--sizes")
        words = words[:first] + ["--sizes", "32x48x12", "--write-docs"]
    if "--preset" in words:
        words += TINY
    if part.module in (HERE + "chunk_parts", HERE + "against_torch"):
        words += ["--repeat", "1"] if "against" in part.module else ["--chunks", "1"]
    if part.module.endswith(".paper_suite"):
        words += ["--seconds=2", "--height=96"]
    if part.module.endswith(".metric_networks"):
        words += ["--repeat=1", "--networks=clip_b32", "--batch=1"]
    if "history" in part.module:
        words += ["--repeat", "1", "--chunks", "2", "3"]
    if part.module.endswith(".training_step"):
        words += ["--repeat=1", "--stages", "single latents"]
    if part.module.endswith(".attention"):
        words += ["--repeat=1", "--rows=64", "--heads=2x32"]
    return dataclasses.replace(part, arguments=tuple(words), limit=3 * part.limit)


def run(parts: Sequence[Part], out: Path, title: str) -> str:
    """Runs all parts; returns the table of metrics."""
    out.mkdir(parents=True, exist_ok=True)
    performance, metrics_path = out / "performance.md", out / "figures.jsonl"
    if docs.PATH.exists() and docs.PATH.resolve() != performance.resolve():
        shutil.copy(docs.PATH, performance)
    metrics_path.unlink(missing_ok=True)
    environment = os.environ | {
        docs.VARIABLE: str(performance),
        metrics.VARIABLE: str(metrics_path),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }
    ask = "from experiments.benchmarks.environment import device; print(device())"
    result = subprocess.run(
        [sys.executable, "-c", ask],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    device = result.stdout.strip().splitlines()[-1]
    print(f"{device}; {versions('torch')}", flush=True)
    outcomes = []
    for part in parts:
        outcomes.append(_run_part(part, out, environment, device, performance))
    table = metrics.table(metrics_path)
    summary = "\n".join(["| part | seconds | |", "|---|---:|---|", *outcomes])
    text = f"{table}\n\n{summary}"
    docs.write_section(device, title, f"### {title}\n\n{text}", performance)
    (out / "figures.md").write_text(f"{device}; {versions('torch')}\n\n{text}\n", encoding="utf-8")
    return text


def _run_part(part: Part, out: Path, environment: dict, device: str, performance: Path) -> str:
    """Runs one part; a row about how it went."""
    reason = _missing(part, device)
    if reason:
        return f"| {part.name} | | left out: {reason} |"
    print(f"\n== {part.name}", flush=True)
    log = out / f"{part.name.replace('/', '-').replace(' ', '-').replace(',', '')}.log"
    command = [sys.executable, "-m", part.module, *part.arguments]
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            start_new_session=True,
        )
        try:
            text, _ = process.communicate(timeout=part.limit)
            outcome = "done" if process.returncode == 0 else f"failed ({process.returncode})"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
            text, _ = process.communicate()
            outcome = f"stopped after its {part.limit:.0f} s"
    passed = time.perf_counter() - start
    print(text, flush=True)
    if outcome != "done":
        print("\n".join(log.read_text(encoding="utf-8").splitlines()[-15:]), flush=True)
        outcome += f", see {log.name}"
    if part.record and text.strip():
        line = " ".join(["python -m", part.module, *part.arguments])
        body = text if "|---" in text else f"```\n{text.strip()}\n```"
        docs.write_section(
            device, part.name, docs.section(part.name, line, versions(), body), performance
        )
    print(f"-- {part.name}: {outcome}, {passed:.0f} s", flush=True)
    return f"| {part.name} | {passed:.0f} | {outcome} |"


def _missing(part: Part, device: str) -> str | None:
    """Why a part cannot run here."""
    if part.torch and device.startswith("TPU"):
        return "PyTorch would not run on this device"
    if importlib.util.find_spec(part.module) is None:
        return f"there is no {part.module}"
    installed = importlib.util.find_spec("torch") or (ROOT / ".venv-torch/bin/python").exists()
    return "PyTorch is missing" if part.torch and not installed else None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("machine", choices=PARTS)
    parser.add_argument("--out", metavar="DIR", default="runs/performance", type=Path)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see whether all runs")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="parts whose name has a word")
    args = parser.parse_args(argv)
    parts = [p for p in PARTS[args.machine] if not args.only or any(w in p.name for w in args.only)]
    if args.tiny:
        parts = [tiny(part) for part in parts]
    print(run(parts, args.out.resolve(), f"All figures ({args.machine})"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
