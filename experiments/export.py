"""Writes the averaged weights of a run's newest checkpoint, while it trains or after it was stopped:

python -m experiments.export --workdir=runs/dit --out=runs/mini
"""

from __future__ import annotations

from absl import flags, logging

from bvjax import console
from bvjax.errors import UserError
from experiments.wiring import export

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Weights folder that gets the trained part.", required=True)


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}")
    out = console.folder(_OUT.value, "out")
    step = export(console.folder(_WORKDIR.value, "workdir"), out)
    print(f"wrote the weights of step {step} into {out}")


if __name__ == "__main__":
    console.run_flags(main)
