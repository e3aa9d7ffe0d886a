"""A picture of what `curate` cut where, and what it dropped and why, for docs/data.md:

python -m experiments.films.timeline --data data/curated --out docs/data_takes.png
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

import matplotlib

from bvjax import console
from bvjax.errors import UserError
from bvjax.files import read_json_lines, write_atomic
from bvjax.plain_text import shown
from data_pipelines.curation.rows import by_film, is_kept

KEPT = "#2c7fb8"


def draw(rows: list[dict[str, Any]]) -> bytes:
    """A PNG: a line for each film, its takes along it in seconds, those that are kept in blue with their chunks.

    Raises `UserError` where no film has a take.
    """
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    films = {name: [row for row in of if "start" in row] for name, of in by_film(rows).items()}
    films = {name: of for name, of in films.items() if of}
    if not films:
        raise UserError("no film has a take")
    kinds = sorted(
        {row["dropped"]["kind"] for of in films.values() for row in of if not is_kept(row)}
    )
    colours = {kind: plt.get_cmap("Set2")(i % 8) for i, kind in enumerate(kinds)}
    figure, axes = plt.subplots(figsize=(10, 0.6 + 0.55 * len(films)), layout="constrained")
    for line, of in enumerate(films.values()):
        for row in of:
            axes.barh(
                line, row["stop"] - row["start"], left=row["start"], height=0.35, color="#dddddd"
            )
        for row in of:
            colour = KEPT if is_kept(row) else colours[row["dropped"]["kind"]]
            for start, stop in _stretches(row):
                axes.barh(
                    line,
                    stop - start,
                    left=start,
                    height=0.7,
                    color=colour,
                    edgecolor="white",
                    linewidth=0.6,
                )
    axes.set_yticks(range(len(films)), [shown(name) for name in films])
    axes.invert_yaxis()
    axes.set_xlabel(
        "seconds; white lines are the edges of takes and chunks, grey is what no take or chunk covers"
    )
    handles = [plt.Rectangle((0, 0), 1, 1, color=c) for c in (KEPT, *colours.values())]
    figure.legend(
        handles,
        ["kept", *kinds],
        loc="outside upper right",
        ncols=min(5, len(handles)),
        frameon=False,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def _stretches(row: dict[str, Any]) -> list[tuple[float, float]]:
    """The chunks of a take, or the take where it has none, in seconds."""
    chunks = row.get("chunks")
    if not chunks:
        return [(row["start"], row["stop"])]
    return [(chunk["start"] / row["rate"], chunk["stop"] / row["rate"]) for chunk in chunks]


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and draw; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.films.timeline")
    parser.add_argument("--data", type=console.path, required=True, metavar="DIR")
    parser.add_argument("--out", type=console.path, required=True, metavar="PNG")
    a = parser.parse_args(argv)

    def command() -> None:
        rows = [row for _, row in read_json_lines(a.data / "manifest.jsonl", "the manifest")]
        write_atomic(Path(a.out), draw(rows))

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
