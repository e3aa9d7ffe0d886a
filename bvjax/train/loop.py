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
from bvjax.train.checkpoint import Checkpoints
from bvjax.train.metrics import MetricWriter
from bvjax.train.optimizer import OptimizerConfig, learning_rate, make_optimizer
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


def check(optimizer_config: OptimizerConfig, config: LoopConfig, part: str) -> None:
    """Raises `UserError` for what can be known to be wrong before anything is made or written."""
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
) -> LoopResult:
    """Trains until `config.steps`, resuming from the newest checkpoint in `workdir` if any.

    Args:
        params: where to start when there is no checkpoint, or what makes it; None draws from `task.init`.

    A task whose loss takes a layout must have been given that of `config.mesh`.

    Raises:
        UserError: batch sizes that do not divide, a mesh that there are no devices for; data that
            ends.
        FloatingPointError: the loss or a norm is not finite; the last good checkpoint is untouched.
    """
    # ---- where things live
    layout = mesh_lib.training_layout(config.mesh, task.part)
    batch_size = (config.global_batch_size, config.device_batch_size, layout.size("data"))
    accum = mesh_lib.accumulation_steps(*batch_size)
    logging.info("batch: %s", mesh_lib.describe_batch(*batch_size))
    batch_sharding = mesh_lib.batch_sharding(layout)

    # ---- state: checkpoint, else given parameters, else random ones
    schedule = learning_rate(optimizer_config, config.steps)
    optimizer = make_optimizer(optimizer_config, schedule, task.frozen)
    checkpoints = Checkpoints(Path(workdir) / "checkpoints", config.keep)
    start = checkpoints.latest or 0
    if callable(params):
        params = None if start else params()
    first = functools.partial(init_state, task.init, optimizer, config.seed)
    shapes = jax.eval_shape(first, params)
    state_sharding = mesh_lib.state_shardings(layout, shapes, task.part)
    if start:
        like = jax.tree.map(
            lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
            shapes,
            state_sharding,
        )
        state, data_state = checkpoints.restore(like)
        data.set_state(data_state)
        logging.info("resumed from step %d in %s", start, workdir)
    else:
        state = jax.jit(first, out_shardings=state_sharding)(params)
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
                    checkpoints.save(done, state, data.get_state())
                if last or _due(done, config.sample_every):
                    progress.flush()
                    if stop.signum is None:
                        progress.log(done, task.sample(state.ema, Path(workdir) / "samples", done))
                if stop.signum is not None:
                    logging.info("signal %d: saved step %d and stopping", stop.signum, done)
                    break
        return LoopResult(state, progress.last, stop.signum)
    finally:
        checkpoints.close()
        writer.close()


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
            raise FloatingPointError(
                f"{', '.join(bad)} not finite at step {step}; "
                f"the last good checkpoint is that of step {self._checkpoints.latest or 0}"
            )
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
