"""The table of docs/lvbench.md: VDE of single videos, and means of folders, one row each:

python -m experiments.lvbench.footage_table runs/lvbench/real/results.json --means runs/lvbench/model/results.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bvjax.errors import UserError
from bvjax.lvbench.results import load_results

DASH = "\N{EN DASH}"


def rows(results: Mapping[str, Any], mean: bool) -> list[list[str]]:
    """Cells of each video, by name, or of the mean over videos with its interval."""
    metrics = results["metrics"]
    if not mean:
        video_rows = []
        for video in sorted(results["videos"], key=lambda v: v["name"]):
            size = f"{video['width']}x{video['height']}, {video['seconds']:.1f} s"
            vdes = [number(video["scores"].get(m, {}).get("vde")) for m in metrics]
            video_rows.append([f"`{video['name']}` ({size})", *vdes])
        return video_rows
    count = len(results["videos"])
    summaries = [results["aggregate"][m]["vde"] for m in metrics]
    cells = [
        f"{number(v['mean'])} ({number(v['low'])} to {number(v['high'])})"
        + (f", n = {v['n']}" if v["n"] != count else "")
        if v["mean"] is not None
        else DASH
        for v in summaries
    ]
    return [[f"{results['config']['name']} ({count} videos)", *cells]]


def number(value: float | None) -> str:
    """Three digits that count; a dash for none."""
    return DASH if value is None else f"{value:#.3g}".rstrip(".")


def table(single: list[Mapping[str, Any]], means: list[Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown; raises `UserError` when evaluations measured different metrics."""
    all_results = [*single, *means]
    metrics = all_results[0]["metrics"]
    if any(list(r["metrics"]) != list(metrics) for r in all_results):
        raise UserError("the evaluations measured different metrics; give those of one suite")
    titles = [entry["title"].lower() for entry in metrics.values()]
    lines = [["video", *titles], ["---", *["--:"] * len(titles)]]
    for results in all_results:
        lines += rows(results, mean=any(results is r for r in means))
    return ["| " + " | ".join(line) + " |" for line in lines]


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.lvbench.footage_table",
        description="VDE of videos as rows of Markdown.",
    )
    parser.add_argument("single", nargs="*", type=Path, help="results.json: a row per video")
    parser.add_argument("--means", nargs="*", type=Path, default=[], help="a row for all")
    args = parser.parse_args(argv)
    if not args.single and not args.means:
        parser.error("give results.json of at least one evaluation")
    try:
        single, means = ([load_results(p) for p in paths] for paths in (args.single, args.means))
        print("\n".join(table(single, means)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
