"""Writes the averaged weights of a run's newest checkpoint, while it trains or after it was stopped:

python -m experiments.export --workdir=runs/dit --out=runs/mini
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags, logging

from bvjax import console
from bvjax.errors import UserError
from bvjax.files import read_json_object
from bvjax.train.checkpoint import restore_newest
from bvjax.train.task import shapes_of
from experiments.experiment import experiment_of
from experiments.run_folder import make_writable
from experiments.stages import make_stage
from experiments.wiring import git_commit

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Weights folder that gets the trained part.", required=True)


def export(workdir: Path, out: Path) -> int:
    """Returns the step whose weights it wrote.

    Raises:
        UserError: the run has no config, no intact checkpoint, or data that is no longer there.
    """
    content = read_json_object(workdir / "config.json")
    stage = make_stage(experiment_of(content))
    make_writable(out)
    restored = restore_newest(workdir / "checkpoints", shapes_of(stage.task))
    meta = {"config": content, "commit": git_commit(), "step": restored.saved.step}
    stage.task.export(restored.state, out, meta)
    return restored.saved.step


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}")
    out = console.path(_OUT.value)
    try:
        step = export(console.path(_WORKDIR.value), out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote the weights of step {step} into {out}")
    return 0


if __name__ == "__main__":
    console.run_flags(main)
