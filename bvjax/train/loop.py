"""The training loop: restore, step, log, sample, save, stop."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

from bvjax.errors import UserError
from bvjax.train import mesh as mesh_lib
from bvjax.train.checkpoint import Checkpoints, Restored, restore_newest, set_aside, steps_of
from bvjax.train.metrics import MetricWriter
from bvjax.train.optimizer import (
    OptimizerConfig,
    learning_rate,
    make_optimizer,
    scheduled_rate,
)
from bvjax.train.plan import go_on, new_plan
from bvjax.train.signals import StopRequest
from bvjax.train.state import Params, TrainState, init_state
from bvjax.train.step import make_train_step
from bvjax.train.task import DataIterator, Task


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long, how large, how often.  All `every` are in steps; 0 means never."""

    steps: int
    global_batch_size: int  # examples an update, whatever the number of devices
    # Examples at once on one device, or on those that share them (all axes of a mesh but `data`);
    # accumulation is derived.
    device_batch_size: int
    mesh: str = ""  # like data=2,fsdp=4, see `bvjax.sharding`; "" = one device
    seed: int = 0
    ema_decay: float = 0.999
    log_every: int = 50
    sample_every: int = 1000
    checkpoint_every: int = 500
    keep: int = 2  # checkpoints


LEAST = dict(
    steps=1, global_batch_size=1, device_batch_size=1, log_every=0, sample_every=0,
    checkpoint_every=0, keep=1,
)  # fmt: skip
MOST = 2**31 - 1  # the state counts its steps in 32 bits


def check(optimizer_config: OptimizerConfig, config: LoopConfig, part: str) -> None:
    """Raises `UserError` for what can be known to be wrong before anything is made or written."""
    for field in dataclasses.fields(config):
        value, least = getattr(config, field.name), LEAST.get(field.name)
        if least is not None and not least <= value <= MOST:
            raise UserError(f"train.{field.name} is {value}; it must be {least} to {MOST}")
    if not -MOST <= config.seed <= MOST:
        raise UserError(f"train.seed is {config.seed}; it must be {-MOST} to {MOST}")
    if not 0.0 <= config.ema_decay < 1.0:
        raise UserError(f"train.ema_decay is {config.ema_decay}; it must be 0 or more and below 1")
    data = mesh_lib.training_layout(config.mesh, part).size("data")
    mesh_lib.accumulation_steps(config.global_batch_size, config.device_batch_size, data)
    make_optimizer(optimizer_config, learning_rate(optimizer_config, config.steps))


@dataclasses.dataclass(frozen=True)
class LoopResult:
    state: TrainState
    metrics: dict[str, float]  # the last ones written
    stopped_by: int | None  # signal number, or None when the run reached its last step


def fit(
    task: Task,
    data: DataIterator,
    optimizer_config: OptimizerConfig,
    config: LoopConfig,
    workdir: Path,
    params: Params | Callable[[], Params] | None = None,
    *,
    extend: bool = False,
    begun_with: int | None = None,
    begin: Callable[[], None] = lambda: None,
) -> LoopResult:
    """Trains until `config.steps`, resuming from the newest intact checkpoint in `workdir` if any.

    Args:
        params: where to start when there is no checkpoint, or what makes it; None draws from `task.init`.
        extend: whether a run may be given other `config.steps` than it was begun with, see `plan.go_on`.
        begun_with: its steps, for older checkpoints, which do not say; None: `config.steps`.
        begin: called when all has been checked, before anything is written.

    A task whose loss takes a layout must have been given that of `config.mesh`.

    Raises:
        UserError: batch sizes that do not divide, a mesh that there are no devices for; data that
            ends; checkpoints of which none is intact; steps that the run was not begun with.
        FloatingPointError: the loss or a norm is not finite; the last good checkpoint is untouched.
    """
    # ---- where things live
    layout = mesh_lib.training_layout(config.mesh, task.part)
    batch_size = (config.global_batch_size, config.device_batch_size, layout.size("data"))
    accum = mesh_lib.accumulation_steps(*batch_size)
    logging.info("batch: %s", mesh_lib.describe_batch(*batch_size))
    batch_sharding = mesh_lib.batch_sharding(layout)

    # ---- state: checkpoint, else given parameters, else random ones
    folder, start, plan = Path(workdir) / "checkpoints", 0, new_plan(optimizer_config, config.steps)
    resumes = bool(steps_of(folder))
    if not resumes:
        begin()
    if callable(params):
        params = None if resumes else params()
    schedule = scheduled_rate(optimizer_config, plan.milestones)
    optimizer = make_optimizer(optimizer_config, schedule, task.frozen)
    first = functools.partial(init_state, task.init, optimizer, config.seed)
    shapes = jax.eval_shape(first, params)
    state_sharding = mesh_lib.state_shardings(layout, shapes, task.part)
    if resumes:
        like = jax.tree.map(
            lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
            shapes,
            state_sharding,
        )

        def next_plan(saved):
            before = saved.plan or new_plan(optimizer_config, begun_with or config.steps)
            return go_on(optimizer_config, config.steps, saved.step, before, extend)

        found = restore_newest(folder, like, data, next_plan)
        state, start = found.state, found.saved.step
        plan, change = next_plan(found.saved)
        begin()
        _tell(found, change, folder)
        set_aside(folder, [*found.damaged])
        schedule = scheduled_rate(optimizer_config, plan.milestones)
        optimizer = make_optimizer(optimizer_config, schedule, task.frozen)
    else:
        state = jax.jit(first, out_shardings=state_sharding)(params)
    checkpoints = Checkpoints(folder, config.keep)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    logging.info("%s: %s parameters", task.part, f"{count:,}")

    # ---- loop
    train_step = make_train_step(
        task.loss,
        optimizer,
        schedule,
        accum=accum,
        ema_decay=config.ema_decay,
        state_sharding=state_sharding,
        batch_sharding=batch_sharding,
    )
    writer = MetricWriter(workdir, start)
    progress = Progress(writer, config, start, checkpoints)
    try:
        with (
            StopRequest() as stop,
            tqdm(
                total=config.steps, initial=start, unit="step", disable=None, mininterval=1.0
            ) as bar,
        ):
            for done in range(start + 1, config.steps + 1):
                batch = jax.device_put(_next(data, done, config), batch_sharding)
                state, metrics = train_step(state, batch)
                progress.put(done, metrics)
                bar.update()
                last = done == config.steps or stop.signum is not None
                if last or _due(done, config.checkpoint_every):
                    progress.flush()  # a state is saved only once its own metrics are known finite
                    checkpoints.save(done, state, data.get_state(), plan)
                if last or _due(done, config.sample_every):
                    progress.flush()
                    if stop.signum is None:
                        progress.log(
                            done, _sample(task, state.ema, Path(workdir) / "samples", done)
                        )
                if stop.signum is not None:
                    logging.info("signal %d: saved step %d and stopping", stop.signum, done)
                    break
        return LoopResult(state, progress.last, stop.signum)
    finally:
        checkpoints.close()
        writer.close()


def _tell(found: Restored, change: str | None, folder: Path) -> None:
    start = found.saved.step
    for step, why in found.damaged.items():
        logging.warning(
            "checkpoint %s is damaged (%s): kept as %s.damaged, going on from step %d",
            folder / str(step), why, step, start,
        )  # fmt: skip
    for remark in (found.saved.unchecked, change):
        if remark:
            logging.warning("%s", remark)
    logging.info("resumed from step %d in %s", start, folder.parent)


def _sample(task: Task, params: Params, folder: Path, step: int) -> dict[str, float]:
    """Scalars of `task.sample`; when that fails the training goes on, because its weights are what counts."""
    try:
        return task.sample(params, folder, step)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        logging.warning("no samples of step %d, the training goes on (%s)", step, reason)
        return {}


class Progress:
    """Takes each step's metrics, reads them one step late, and writes their means.

    Reading step t-1 after step t was dispatched keeps the device busy.
    """

    def __init__(
        self, writer: MetricWriter, config: LoopConfig, start: int, checkpoints: Checkpoints
    ):
        self.last: dict[str, float] = {}
        self._writer, self._config, self._checkpoints = writer, config, checkpoints
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._interval: list[dict[str, float]] = []
        self._first = start + 1
        self._clock, self._clock_step = time.monotonic(), start

    def put(self, step: int, metrics: dict[str, jax.Array]) -> None:
        previous, self._pending = self._pending, (step, metrics)
        self._read(previous)

    def flush(self) -> None:
        """Reads the metrics of the newest step too (waits for the device)."""
        previous, self._pending = self._pending, None
        self._read(previous)

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Writes scalars that do not come from the step."""
        if scalars:
            self._writer.write(step, scalars)
            self.last |= scalars
            logging.info("step %d: %s", step, _format(scalars))
        self._clock, self._clock_step = time.monotonic(), step

    def _read(self, pending: tuple[int, dict[str, jax.Array]] | None) -> None:
        if pending is None:
            return
        step, metrics = pending[0], {k: float(v) for k, v in jax.device_get(pending[1]).items()}
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            latest = self._checkpoints.latest
            good = "there is no checkpoint yet"
            if latest is not None:
                good = f"the last good checkpoint is that of step {latest}"
            raise FloatingPointError(f"{', '.join(bad)} not finite at step {step}; {good}")
        self._interval.append(metrics)
        if step == self._first:  # what came before was compilation
            self._clock, self._clock_step = time.monotonic(), step
        if _due(step, self._config.log_every) or step == self._config.steps:
            self._write(step)

    def _write(self, step: int) -> None:
        means = {k: float(np.mean([m[k] for m in self._interval])) for k in self._interval[0]}
        now = time.monotonic()
        rate = (step - self._clock_step) / max(now - self._clock, 1e-9)
        self._interval, self._clock, self._clock_step = [], now, step
        means |= {
            "steps_per_second": rate,
            "examples_per_second": rate * self._config.global_batch_size,
        }
        self._writer.write(step, means)
        self.last |= means
        left = f", {(self._config.steps - step) / rate / 60:.1f} min left" if rate > 0 else ""
        logging.info("step %d/%d: %s%s", step, self._config.steps, _format(means), left)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _format(scalars: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())


def _next(data: DataIterator, step: int, config: LoopConfig) -> dict[str, np.ndarray]:
    try:
        batch = next(data)
    except StopIteration:
        raise UserError(
            f"the data ended before step {step} of {config.steps}; it has to repeat"
        ) from None
    sizes = {name: len(value) for name, value in batch.items()}
    if any(size != config.global_batch_size for size in sizes.values()):
        raise UserError(
            f"a batch has sizes {sizes}, global_batch_size is {config.global_batch_size}"
        )
    return batch
