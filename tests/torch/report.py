"""Writes docs/parity.md: runs the live tests and tabulates what they measured.

    .venv-torch/bin/python -m tests.torch.report          (make parity-docs)

Nothing is written unless every test passes.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable

from tests.torch.conftest import RECORDS

ROOT = pathlib.Path(__file__).parents[2]
TARGET = ROOT / "docs" / "parity.md"
HEAD = """\
# What equals what

Made by `make parity-docs`, which runs the tests in `tests/torch/` (`make test-torch`) and tabulates what they
measured; changes by hand are lost. Both sides compute in float32 on the CPU from the same random weights (all
of them, also those that training starts at zero or one) and the same inputs, at small sizes.

*Error* is the largest absolute difference over all cases of a row, *tolerance* what the tests allow, *size* the
largest absolute value of what is compared. "0, exact" is equality to the bit. Most of the DiT's error is that of the
timestep's sinusoid, whose angles reach 1000: in float32 each side is up to 6e-5 off the exact value. With
{versions}.

| what | reference | error | tolerance | size | comparisons |
|---|---|---:|---:|---:|---:|
"""


def table(records: Iterable[dict]) -> str:
    """The rows, one per (name, reference), sorted by name."""
    rows: dict[tuple[str, str], list[dict]] = {}
    for record in records:
        rows.setdefault((record["name"], record["reference"]), []).append(record)
    return "".join(_row(*key, rows[key]) for key in sorted(rows))


def _row(name: str, reference: str, found: list[dict]) -> str:
    error, tolerance = (max(r[key] for r in found) for key in ("error", "tolerance"))
    size = max((r["size"] for r in found if r["size"] is not None), default=None)
    cells = [
        name,
        reference,
        f"{error:.2g}" if error else "0, exact",
        f"{tolerance:g}",
        "" if size is None else f"{size:.3g}",
        str(len(found)),
    ]
    return f"| {' | '.join(cells)} |\n"


def main() -> int:
    """Runs the tests and writes the file; returns pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "records.jsonl"
        path.touch()
        command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "tests/torch"]
        code = subprocess.run(command, cwd=ROOT, env=os.environ | {RECORDS: str(path)}).returncode
        records = [json.loads(line) for line in path.read_text().splitlines()]
    if code:
        return code
    packages = ("jax", "torch", "diffusers", "transformers")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    TARGET.write_text(HEAD.format(versions=versions) + table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
