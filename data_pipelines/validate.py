"""Says what is wrong with a folder that `data_pipelines.curate` or `data_pipelines.encode` has written:

    python -m data_pipelines.validate --data data/curated

Every row of the manifest and of the stages' journals is held against data_pipelines/curation/assets/rows.schema.json
(JSON Schema), chunks against their takes, keyframes are looked for, captions, decisions and the report are read, and
every record of every shard. Nothing is written. It returns 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bvjax import console
from bvjax.errors import UserError
from bvjax.lvbench.dataset.examine import lines
from bvjax.lvbench.dataset.files import Problem
from data_pipelines.curation.check_rows import MANIFEST, check_curated
from data_pipelines.encoded.check_latents import SETTINGS, check_latents

LATENTS = "latents"  # where `curate` has its shards


def validate(root: Path) -> tuple[list[Problem], dict[str, int]]:
    """What is wrong with a folder of `curate` with its latents, or one of `encode`, and how much was looked at.

    Raises:
        UserError: it is neither.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    if (root / SETTINGS).exists() and not (root / MANIFEST).exists():
        return check_latents(root)
    problems, counts = check_curated(root)
    if (root / LATENTS / SETTINGS).exists():
        more, counts_of_latents = check_latents(root / LATENTS)
        problems += [Problem(f"{LATENTS}/{p.location}", p.message) for p in more]
        counts |= counts_of_latents
    return problems, counts


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and validate; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.validate",
        description="Says what is wrong with a folder that curate or encode has written.",
    )
    parser.add_argument(
        "--data", type=console.path, required=True, metavar="DIR", help="the folder"
    )
    a = parser.parse_args(argv)

    def command() -> int:
        problems, counts = validate(a.data)
        for line in lines(problems):
            console.tell(line)
        console.tell(f"{a.data}: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
        return 1 if problems else 0

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
