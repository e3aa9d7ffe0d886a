"""A run of training from a config to weights: its checks, and the order of its writes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import jax
from absl import logging

from bvjax.distributed import exchange
from bvjax.errors import UserError
from bvjax.files import read_json_object
from bvjax.overrides import to_dict
from bvjax.profiling import Window
from bvjax.train.checkpoint import restore_newest
from bvjax.train.frozen import saved_part
from bvjax.train.loop import fit
from bvjax.train.task import shapes_of
from data_pipelines.counter_source import close
from experiments.experiment import Experiment, experiment_of
from experiments.run_folder import check_same, claim, make_writable
from experiments.stages import make_stage


def train(
    experiment: Experiment,
    workdir: Path,
    init_from: str | None = None,
    weights: str | None = None,
    extend: bool = False,
    profile: Window | None = None,
) -> int | None:
    """Trains as `experiment` says and adds the part to a weights folder (default WORKDIR/weights).

    `extend` allows other `train.steps` than the run in `workdir` was begun with. The steps of `profile` are traced.

    Returns the signal that stopped it, None when it reached its last step.
    """
    content = to_dict(experiment)
    begun = exchange.on_main(lambda: check_same(workdir, content))
    stage = make_stage(experiment, None if init_from is None else Path(init_from))
    folder = Path(weights) if weights else workdir / "weights"

    def begin():
        claim(workdir, content)
        make_writable(folder if weights else workdir)

    data = stage.make_data()
    try:
        result = fit(
            stage.task,
            data,
            experiment.train,
            workdir,
            stage.start_from,
            extend=extend,
            begun_with=begun.get("train.steps"),
            begin=begin,
            profile=profile,
        )
    finally:
        close(data)
    if result.stopped_by is None:
        meta = {
            "config": content,
            "init_from": init_from,
            "commit": git_commit(),
            "device": jax.devices()[0].device_kind,
            "metrics": result.metrics,
        }
        try:
            stage.task.export(result.state, folder, meta)
        except Exception as error:
            logging.error(
                "the training is done and saved; the same command writes its weights again"
            )
            if isinstance(error, OSError):
                raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None
            raise
        logging.info("wrote the %s into %s", stage.task.name, folder)
    return result.stopped_by


def export(workdir: Path, out: Path) -> int:
    """Returns the step whose weights it wrote.

    Raises:
        UserError: the run has no config, no intact checkpoint, or data that is no longer there.
    """
    content = read_json_object(workdir / "config.json")
    stage = make_stage(experiment_of(content))
    make_writable(out)
    shapes = shapes_of(stage.task)  # what is frozen is not exported
    like = lambda saved: shapes if saved.frozen is None else saved_part(stage.task, shapes)
    restored = restore_newest(workdir / "checkpoints", like)
    meta = {"config": content, "commit": git_commit(), "step": restored.saved.step}
    stage.task.export(restored.state, out, meta)
    return restored.saved.step


def git_commit() -> str | None:
    """The commit of the code, with + if files differ from it; None outside a repository."""
    describe = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        folder = Path(__file__).parent
        done = subprocess.run(
            describe, cwd=folder, capture_output=True, encoding="utf-8", check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None
