"""Trains as `experiments.train` does, on a machine that has JAX and little else:

python -m experiments.train_plain CONFIG_FILE WORKDIR [--init-from=FOLDER] [--minutes=N] [section.key=value ...]

Neither ml_collections nor grain, tensorflow-datasets or PyAV is imported, so the data must be made by the pool of
processes (`data.loader=pool`). After `--minutes` the state is saved as after SIGTERM; the same words go on.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path

from absl import logging

from bvjax import compilation, console
from bvjax.errors import UserError
from bvjax.overrides import apply_overrides
from experiments import wiring
from experiments.experiment import Experiment


def load_experiment(path: Path, assignments: list[str]) -> Experiment:
    """The experiment that a config file builds, with `section.key=value` applied; raises `UserError`."""
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise UserError(f"there is no config {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return apply_overrides(module.experiment(), assignments)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.train_plain")
    parser.add_argument("config", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--init-from")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--extend", action="store_true")
    parser.add_argument("assignments", nargs="*")
    arguments = parser.parse_intermixed_args(words)
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(lambda r: "orbax" not in r.pathname or r.levelno > 20)
    experiment = load_experiment(arguments.config, arguments.assignments)
    compilation.keep_programs()
    timer = None
    if arguments.minutes:
        timer = threading.Timer(60 * arguments.minutes, os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True
        timer.start()
    try:
        stopped_by = wiring.train(
            experiment, arguments.workdir, arguments.init_from, extend=arguments.extend
        )
    except FloatingPointError as error:
        return console.say(f"stopped: {error}", 1)
    finally:
        if timer is not None:
            timer.cancel()
    return 130 if stopped_by == signal.SIGINT else 0


if __name__ == "__main__":
    sys.exit(console.run(lambda: main(sys.argv[1:]), "error"))
