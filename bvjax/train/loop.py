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
from bvjax.train.checkpoint import Checkpoints, Restored, Saved, restore_newest, set_aside, steps_of
from bvjax.train.config import LoopConfig
from bvjax.train.mesh import batch_sharding
from bvjax.train.metrics import MetricWriter
from bvjax.train.plan import Plan, go_on, new_plan
from bvjax.train.signals import StopRequest
from bvjax.train.step import compile_step
from bvjax.train.task import DataIterator, Params, State, Task, shapes_of


@dataclasses.dataclass(frozen=True)
class LoopResult:
    state: State
    metrics: dict[str, float]  # the last ones written
    stopped_by: int | None  # signal number, or None when the run reached its last step


def fit(
    task: Task,
    data: DataIterator,
    config: LoopConfig,
    workdir: Path,
    start_from: Params | Callable[[], Params] | None = None,
    *,
    extend: bool = False,
    begun_with: int | None = None,
    begin: Callable[[], None] = lambda: None,
) -> LoopResult:
    """Trains until `config.steps`, resuming from the newest intact checkpoint in `workdir` if any.

    Args:
        task: what is trained: its state and how a step changes it.
        data: endless batches.
        config: how long, how often.
        workdir: the run's folder.
        start_from: parameters to start from when there is no checkpoint, or what makes them; None leaves them
            to `task.init_state`.
        extend: whether a run may be given other `config.steps` than it was begun with, see `plan.go_on`.
        begun_with: its steps, for older checkpoints, which do not say; None: `config.steps`.
        begin: called when all has been checked, before anything is written.

    Raises:
        UserError: data that ends, or batches of another size; checkpoints of which none is intact; steps
            that the run was not begun with.
        FloatingPointError: a metric is not finite; the last good checkpoint is untouched.
    """
    folder, plan = Path(workdir) / "checkpoints", new_plan(config.steps)
    if steps_of(folder):
        restored, plan, change = _restore(task, data, config, folder, extend, begun_with)
        begin()
        _tell(restored, change, folder)
        set_aside(folder, [*restored.damaged])
        state, start = restored.state, restored.saved.step
    else:
        begin()
        params = start_from() if callable(start_from) else start_from
        make = functools.partial(task.init_state, config.seed)
        state = jax.jit(make, out_shardings=task.shardings(shapes_of(task, params)))(params)
        start = 0
    for name, params in task.parameters(state).items():
        logging.info("%s: %s parameters", name, f"{sum(x.size for x in jax.tree.leaves(params)):,}")

    task = task.with_schedule_end(plan.schedule_end)
    train_step, where = compile_step(task, state), batch_sharding(task.layout)
    checkpoints, writer = Checkpoints(folder, config.keep), MetricWriter(workdir, start)
    metrics = StepMetrics(writer, config, start, checkpoints)
    try:
        with (
            StopRequest() as stop,
            tqdm(
                total=config.steps, initial=start, unit="step", disable=None, mininterval=1.0
            ) as bar,
        ):
            for step in range(start + 1, config.steps + 1):
                batch = jax.device_put(_next(data, step, config), where)
                state, scalars = train_step(state, batch)
                metrics.record(step, scalars)
                bar.update()
                last = step == config.steps or stop.signum is not None
                if last or _due(step, config.checkpoint_every):
                    metrics.flush()  # a state is saved only once its own metrics are known finite
                    checkpoints.save(step, state, data.get_state(), plan)
                if last or _due(step, config.sample_every):
                    metrics.flush()
                    if stop.signum is None:
                        metrics.log(step, _sample(task, state, Path(workdir) / "samples", step))
                if stop.signum is not None:
                    logging.info("signal %d: saved step %d and stopping", stop.signum, step)
                    break
        return LoopResult(state, metrics.last, stop.signum)
    finally:
        checkpoints.close()
        writer.close()


def _restore(
    task: Task,
    data: DataIterator,
    config: LoopConfig,
    folder: Path,
    extend: bool,
    begun_with: int | None,
) -> tuple[Restored, Plan, str | None]:
    """The newest intact checkpoint, how the run goes on from it, and what that changes."""

    def next_plan(saved: Saved) -> tuple[Plan, str | None]:
        before = saved.plan or new_plan(begun_with or config.steps)
        rates_of = lambda end: task.with_schedule_end(end).rates
        return go_on(rates_of, config.steps, saved.step, before, extend)

    restored = restore_newest(folder, shapes_of(task), data, next_plan)
    return restored, *next_plan(restored.saved)


def _tell(restored: Restored, change: str | None, folder: Path) -> None:
    start = restored.saved.step
    for step, reason in restored.damaged.items():
        logging.warning(
            "checkpoint %s is damaged (%s): kept as %s.damaged, going on from step %d",
            folder / str(step),
            reason,
            step,
            start,
        )
    for remark in (restored.saved.unchecked, change):
        if remark:
            logging.warning("%s", remark)
    logging.info("resumed from step %d in %s", start, folder.parent)


def _sample(task: Task, state: State, folder: Path, step: int) -> dict[str, float]:
    """Scalars of `task.sample`; when that fails the training goes on, because its weights are what counts."""
    try:
        return task.sample(state, folder, step)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        logging.warning("no samples of step %d, the training goes on (%s)", step, reason)
        return {}


class StepMetrics:
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

    def record(self, step: int, metrics: dict[str, jax.Array]) -> None:
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
        remaining = f", {(self._config.steps - step) / rate / 60:.1f} min left" if rate > 0 else ""
        logging.info("step %d/%d: %s%s", step, self._config.steps, _format(means), remaining)


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
