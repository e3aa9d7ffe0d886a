"""What a folder of very many films costs `curate` beside the films themselves, for docs/data.md:

    python -m experiments.films.many_entries --weights bvjax/assets/mini --counts 10000 100000

The films are empty files, each of which is listed, refused, journaled and counted; twice, as the second run repeats
nothing. Processor time and the most memory are those of a process of its own for each line.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bvjax import console
from bvjax.errors import WorkError
from bvjax.files import parse_json

A_FOLDER = 1000  # files


def make(folder: Path, count: int) -> None:
    """Empty files NNNN/MMM.mp4."""
    for number in range(count):
        path = folder / f"{number // A_FOLDER:04d}" / f"{number % A_FOLDER:03d}.mp4"
        if number % A_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.touch()


def once(videos: Path, weights: Path, out: Path) -> dict[str, float]:
    """Processor seconds of a run until the keyframes, the most megabytes, and the films that were done."""
    from data_pipelines.curate import Request, curate

    began = time.process_time()
    report, _ = curate(Request(videos, weights, out, until="keyframes"))
    return {
        "seconds": time.process_time() - began,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "done": sum(stage["films"] for stage in report["stages"]),
    }


def measure(weights: Path, count: int) -> list[dict[str, float]]:
    """Both runs over `count` files, each in a process of its own; raises `WorkError`."""
    with tempfile.TemporaryDirectory() as folder:
        videos, out = Path(folder) / "films", Path(folder) / "out"
        make(videos, count)
        found = []
        for _ in range(2):
            words = ["--weights", str(weights), "--once", str(videos), str(out)]
            done = subprocess.run(
                [sys.executable, "-m", "experiments.films.many_entries", *words],
                capture_output=True, text=True, encoding="utf-8", check=False,
            )  # fmt: skip
            if done.returncode:
                raise WorkError((done.stderr.strip().splitlines() or ["it failed"])[-1])
            found.append(parse_json(done.stdout, "its figures"))
        return found


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and measure; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.films.many_entries")
    parser.add_argument("--weights", type=console.path, required=True, metavar="DIR")
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--once", type=Path, nargs=2, help=argparse.SUPPRESS)
    a = parser.parse_args(argv)

    def command() -> None:
        if a.once:
            console.tell(json.dumps(once(a.once[0], a.weights, a.once[1])))
            return
        console.tell(
            "| entries | run | processor seconds | milliseconds an entry | most MB |\n|---|---|---|---|---|"
        )
        for count in a.counts:
            for name, run in zip(("first", "second"), measure(a.weights, count), strict=True):
                each = 1000 * run["seconds"] / count
                console.tell(
                    f"| {count} | {name} | {run['seconds']:.1f} | {each:.2f} | {run['megabytes']:.0f} |"
                )

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
