"""From a config to a trained part: where to start, what to write."""

from __future__ import annotations

import subprocess
from pathlib import Path

import jax
import ml_collections
from absl import logging

from bvjax.errors import UserError
from bvjax.overrides import from_dict
from bvjax.train.loop import LoopConfig, check, fit
from bvjax.train.optimizer import OptimizerConfig
from bvjax.train.state import Params
from bvjax.train.task import Task
from bvjax.weights import load_config, load_tensors
from experiments.run_folder import check_same, claim, make_writable
from experiments.stages import check_sections, make_stage


def train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    init_from: str | None = None,
    weights: str | None = None,
    extend: bool = False,
) -> int | None:
    """Trains as `config` says and adds the part to a weights folder (default WORKDIR/weights).

    `extend` allows other `train.steps` than the run in `workdir` was begun with.

    Returns the signal that stopped it, None when it reached its last step.
    """
    check_sections(config)
    content = config.to_dict()
    begun = check_same(workdir, content)
    loop = from_dict(LoopConfig, config.train.to_dict(), "train.")
    optimizer = from_dict(OptimizerConfig, config.optimizer.to_dict(), "optimizer.")
    check(optimizer, loop, config.task)
    task, make_data = make_stage(config)
    params = task.fitted_start if config.task == "vae" and config.vae.start == "linear" else None
    if init_from is not None:
        params = initial_params(task, Path(init_from))
    if task.frozen:
        if init_from is None or not Path(init_from).is_dir():
            raise UserError(
                "vae.trains='decoder' needs `init_from`, a weights folder whose encoder it keeps"
            )
        task = task.with_latents_of(load_config(Path(init_from)).vae)
    folder = Path(weights) if weights else workdir / "weights"

    def begin():
        claim(workdir, content)
        make_writable(folder if weights else workdir)

    result = fit(
        task,
        make_data(),
        optimizer,
        loop,
        workdir,
        params,
        extend=extend,
        begun_with=begun.get("train.steps"),
        begin=begin,
    )
    if result.stopped_by is None:
        meta = {
            "config": content,
            "init_from": init_from,
            "commit": git_commit(),
            "device": jax.devices()[0].device_kind,
            "metrics": result.metrics,
        }
        try:
            task.export(jax.device_get(result.state.ema), folder, meta)
        except Exception as error:
            logging.error(
                "the training is done and saved; the same command writes its weights again"
            )
            if isinstance(error, OSError):
                raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None
            raise
        logging.info("wrote the %s into %s", task.part, folder)
    return result.stopped_by


def initial_params(task: Task, source: Path) -> Params:
    """Parameters of the task's part from a weights folder or one .safetensors file."""
    path = source / f"{task.part}.safetensors" if source.is_dir() else source
    return load_tensors(path, jax.eval_shape(task.init, jax.random.key(0)))


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
