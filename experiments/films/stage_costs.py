"""Costs of the stages of `curate` in processor time, for docs/data.md:

    python -m experiments.films.stage_costs --videos films --weights bvjax/assets/mini --out /tmp/costs \\
        --captions captions.jsonl

Everything runs in this process, so that its own processor time is all there is; nothing may have been done before.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from pathlib import Path
from typing import Any

from bvjax import console
from bvjax.errors import UserError
from bvjax.overrides import apply_overrides
from data_pipelines import curate
from data_pipelines.curation.settings import Settings


def timed(function: Any, seconds: dict[str, float], name: str | None = None) -> Any:
    """`function` with its processor time added under `name`, or the name of the stage that it is given."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        result = function(*args, **kwargs)
        seconds[name or args[0].name] = time.process_time() - began
        return result

    return call


def measure(
    videos: Path, weights: Path, out: Path, captions: str
) -> tuple[dict[str, float], float]:
    """Processor seconds by stage, and the seconds of film that were looked at."""
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: what is done already costs nothing")
    settings = apply_overrides(Settings(), [f"captions.file={captions}"] if captions else [])
    seconds: dict[str, float] = {}
    curate.run_stage = timed(curate.run_stage, seconds)
    curate._encode = timed(curate._encode, seconds, "encode")
    _, films = curate.curate(curate.Request(videos, weights, out, settings))
    length = sum(
        max((row.get("stop", 0.0) for row in rows), default=0.0) for rows in films.values()
    )
    return seconds, length


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and measure; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.films.stage_costs")
    for name in ("--videos", "--weights", "--out"):
        parser.add_argument(name, type=console.path, required=True, metavar="DIR")
    parser.add_argument("--captions", default="", metavar="FILE")
    a = parser.parse_args(argv)

    def command() -> None:
        seconds, length = measure(a.videos, a.weights, a.out, a.captions)
        console.tell(
            f"{length:.0f} s of film\n\n| stage | processor seconds | of a second of film |\n|---|---|---|"
        )
        for name, value in seconds.items():
            console.tell(f"| {name} | {value:.2f} | {value / length:.4f} |")

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
