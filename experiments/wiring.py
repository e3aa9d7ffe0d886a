"""A run of training from a config to weights: its checks, and the order of its writes."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import jax
from absl import logging

from bvjax.distributed import exchange
from bvjax.errors import UserError
from bvjax.files import read_json_object
from bvjax.overrides import to_dict
from bvjax.profiling import Window
from bvjax.stores import AnyPath, LocalCopy, as_path, check_on_disk, is_store, local_copy
from bvjax.train.checkpoint import restore_newest
from bvjax.train.frozen import saved_part
from bvjax.train.loop import fit
from bvjax.train.task import shapes_of
from data_pipelines.counter_source import close
from experiments.experiment import Experiment, experiment_of
from experiments.run_folder import check_same, claim, flat, make_writable
from experiments.stages import make_stage

# Of a weights folder, what is there before parts are added to it.
WEIGHTS = ("config.json", "raw/config.json")


def train(
    experiment: Experiment,
    workdir: AnyPath,
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
    for key, value in flat(content).items():
        if isinstance(value, str):
            check_on_disk(value, key)
    with contextlib.ExitStack() as stack:
        before = ("metrics.csv", *(f"weights/{name}" for name in WEIGHTS))
        run = stack.enter_context(local_copy(workdir, before))
        out = stack.enter_context(local_copy(as_path(weights), WEIGHTS)) if weights else run
        source = None if init_from is None else fetched(init_from, stack)
        return _train(experiment, run, out, source, init_from, extend, profile)


def fetched(init_from: str, stack: contextlib.ExitStack) -> Path:
    """The weights to start from on the disk, where they stay until `stack` is closed."""
    path = as_path(init_from)
    if not is_store(init_from):
        return Path(path)
    folder, names = (path.parent, (path.name,)) if path.suffix == ".safetensors" else (path, None)
    copy = stack.enter_context(local_copy(folder, names, publish=False)).path
    if not any(copy.iterdir()):
        raise UserError(f"there are no weights in {init_from}")
    return copy / path.name if names else copy


def _train(
    experiment: Experiment,
    run: LocalCopy,
    out: LocalCopy,
    source: Path | None,
    init_from: str | None,
    extend: bool,
    profile: Window | None,
) -> int | None:
    """`train` with the folders' copies on the disk."""
    content = to_dict(experiment)
    begun = exchange.on_main(lambda: check_same(run.folder, content))
    stage = make_stage(experiment, source)
    inner = "weights" if out is run else "."
    folder = out.path / inner

    def begin():
        claim(run.folder, content)
        make_writable(out.folder)

    data = stage.make_data()
    try:
        result = fit(
            stage.task,
            data,
            experiment.train,
            run,
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
            out.publish()
        except Exception as error:
            logging.error(
                "the training is done and saved; the same command writes its weights again"
            )
            if isinstance(error, OSError):
                raise UserError(
                    f"cannot write to {out.folder / inner}: {error.strerror or error}"
                ) from None
            raise
        logging.info("wrote the %s into %s", stage.task.name, out.folder / inner)
    return result.stopped_by


def export(workdir: AnyPath, out: AnyPath) -> int:
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
    with local_copy(out, WEIGHTS) as copy:
        stage.task.export(restored.state, copy.path, meta)
        copy.publish()
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
