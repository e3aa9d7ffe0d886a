"""Trains one part of a model:

python -m experiments.train --config=experiments/configs/mini_vae.py --workdir=runs/vae

Start it again with the same words to resume.  Any key of the config can be set from the command
line: --config.train.steps=1000, --config.model.vae.dim=96.  Another number of steps than a run was
begun with needs --extend: its learning rate keeps its schedule, and behind that its last value.

Several processes, one a machine or one a device, are one run: each is started with the same words. SLURM's srun,
Open MPI's mpirun and TPU machines say how many there are; else --coordinator, --num-processes and --process-id do.
`python -m experiments.launch` writes what starts them on a cluster.

Exit codes: 0 finished; 42 stopped by SIGTERM (state saved) or hung for train.hang_seconds, the same command goes on;
1 the loss is not finite, or the disk is full; 2 something about the command or a file is wrong; 130 stopped by
Ctrl-C (state saved).
"""

from __future__ import annotations

import re
import signal
import sys

from absl import flags, logging
from ml_collections import config_flags

from bvjax import compilation, console
from bvjax.distributed import start
from bvjax.distributed.cluster import Options
from bvjax.errors import UserError
from bvjax.profiling import Window
from experiments import wiring
from experiments.experiment import Experiment, check_words, experiment_of
from experiments.old_configs import words_of_now

_CONFIG = config_flags.DEFINE_config_file("config", None, "What to train.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of checkpoints, metrics, samples, weights: of a disk, or gs://BUCKET/FOLDER.",
)
_WEIGHTS = flags.DEFINE_string(
    "weights", None, "Weights folder that gets the trained part (default WORKDIR/weights)."
)
_INIT_FROM = flags.DEFINE_string("init-from", None, "Weights folder or .safetensors to start from.")
_EXTEND = flags.DEFINE_bool(
    "extend", False, "Let train.steps differ from what the run in WORKDIR was begun with."
)
_PROFILE = flags.DEFINE_string(
    "profile-steps", None, "Steps FIRST:LAST that are traced for xprof, into WORKDIR/profile."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num-processes", None, "Of the run.")
_PROCESS_ID = flags.DEFINE_integer("process-id", None, "Of this one, from 0 on.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.INFO)
    # Orbax writes a page of INFO lines for each checkpoint, gcsfs one for each file that is read.
    logging.get_absl_handler().addFilter(
        lambda r: not re.search("orbax|gcsfs", r.pathname) or r.levelno > 20
    )
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}")
    compilation.keep_programs()
    given = {"workdir": _WORKDIR, "weights": _WEIGHTS, "init_from": _INIT_FROM}
    for name, flag in given.items():
        if flag.value is not None:
            console.folder(flag.value, name)
    return start.run(_train, Options(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value))


def _train() -> int:
    try:
        with (
            console.going_on(console.AGAIN),
            compilation.announced(logging.info, "this config"),
        ):
            stopped_by = wiring.train(
                _experiment(),
                console.folder(_WORKDIR.value, "workdir"),
                _INIT_FROM.value,
                _WEIGHTS.value,
                extend=_EXTEND.value,
                profile=None if _PROFILE.value is None else Window.parse(_PROFILE.value),
            )
    except FloatingPointError as error:
        return console.say(f"stopped: {error}", 1)
    return {None: 0, signal.SIGINT: 130}.get(stopped_by, start.RESTART)


def _experiment() -> Experiment:
    try:
        config = _CONFIG.value
        getattr(config, "train", None)  # a config that could not be read says so only when asked
    except OSError as error:
        raise UserError(f"cannot read the config: {str(error).rpartition('] ')[2]}") from None
    return experiment_of(config)


def _check_words() -> None:
    """Puts what keys of a config are called now into the command's words, and tells; refuses unknown ones."""
    sys.argv[1:], hints = words_of_now(sys.argv[1:])
    for hint in hints:
        console.say(f"warning: {hint}")
    check_words(sys.argv[1:])


if __name__ == "__main__":
    if code := console.run(_check_words, "error"):
        sys.exit(code)
    console.run_flags(main)
