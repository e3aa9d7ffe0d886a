"""The training loop: restore, step, log, sample, save, stop."""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

from bvjax.distributed import exchange
from bvjax.distributed.start import RESTART, is_main
from bvjax.distributed.watchdog import Watchdog
from bvjax.errors import UserError
from bvjax.profiling import StepTrace, Window
from bvjax.stores import AnyPath, LocalCopy, as_path
from bvjax.train.checkpoint import Checkpoints, Restored, Saved, restore_newest, set_aside, steps_of
from bvjax.train.config import LoopConfig
from bvjax.train.frozen import KeepsFrozen, check_frozen, completed, hash_of, saved_part
from bvjax.train.mesh import local_rows, place_batch
from bvjax.train.metrics import MetricWriter, NoWriter
from bvjax.train.plan import Plan, go_on, new_plan
from bvjax.train.signals import StopRequest
from bvjax.train.step import compile_step
from bvjax.train.step_metrics import StepMetrics, due
from bvjax.train.task import EXAMPLE, DataIterator, Params, State, Task, shapes_of
from bvjax.train.throughput import Throughput, in_words, measure
from bvjax.train.wall_time import DeviceTime, WallTime


@dataclasses.dataclass(frozen=True)
class LoopResult:
    state: State
    metrics: dict[str, float]  # the last ones written
    stopped_by: int | None  # signal number, or None when the run reached its last step


def fit(
    task: Task,
    data: DataIterator,
    config: LoopConfig,
    workdir: Path | LocalCopy,
    start_from: Params | Callable[[], Params] | None = None,
    *,
    extend: bool = False,
    begun_with: int | None = None,
    begin: Callable[[], None] = lambda: None,
    profile: Window | None = None,
) -> LoopResult:
    """Trains until `config.steps`, resuming from the newest intact checkpoint in `workdir` if any.

    Args:
        task: what is trained: its state and how a step changes it.
        data: endless batches.
        config: how long, how often.
        workdir: the run's folder. Of one on an object store its copy on the disk, which is published before each
            checkpoint: what the copy then lacks is what a run that goes on from there drops.
        start_from: parameters to start from when there is no checkpoint, or what makes them; None leaves them
            to `task.init_state`. A task that keeps them as they are (`frozen.KeepsFrozen`) needs them in every start.
        extend: whether a run may be given other `config.steps` than it was begun with, see `plan.go_on`.
        begun_with: its steps, for older checkpoints, which do not say; None: `config.steps`.
        begin: called when all has been checked, before anything is written.
        profile: steps that are traced into the folder `profile` of `workdir`.

    Raises:
        UserError: data that ends, or batches of another size; checkpoints of which none is intact; steps, or
            frozen parameters, that the run was not begun with.
        FloatingPointError: a metric is not finite; the last good checkpoint is untouched.
    """
    clock = WallTime()
    run = workdir if isinstance(workdir, LocalCopy) else LocalCopy(Path(workdir), Path(workdir))
    folder, plan = as_path(run.folder) / "checkpoints", new_plan(config.steps)
    if exchange.on_main(lambda: steps_of(folder)):
        restored, plan, change = _restore(
            task, data, config, folder, extend, begun_with, start_from
        )
        exchange.on_main(begin)
        _tell(restored, change, folder)
        set_aside(folder, [*restored.damaged])
        state, start = restored.state, restored.saved.step
        frozen = restored.saved.frozen
        clock.go_on(restored.saved.wall_time)
    else:
        exchange.on_main(begin)
        params = start_from() if callable(start_from) else start_from
        frozen = None
        if isinstance(task, KeepsFrozen) and params is not None:
            frozen = hash_of(params)

        def make(params: Params | None) -> State:
            # A weakly typed leaf would make the second step be traced and compiled again.
            state = task.init_state(config.seed, params)
            return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)

        state = jax.jit(make, out_shardings=task.shardings(shapes_of(task, params)))(params)
        start = 0
    for name, params in task.parameters(state).items():
        logging.info("%s: %s parameters", name, f"{sum(x.size for x in jax.tree.leaves(params)):,}")

    task = task.with_schedule_end(plan.schedule_end)
    train_step = compile_step(task, state)
    size = config.global_batch_size
    rows, total = local_rows(task.layout, size), exchange.Sum()
    checkpoints = Checkpoints(folder, config.keep)
    writer = MetricWriter(run.path, start) if is_main() else NoWriter()
    seen = _Seen(data, rows, getattr(task, "micro_batches", 0))
    speed, device = Throughput(size), DeviceTime()
    trace = StepTrace(profile, run.path / "profile", as_path(run.folder) / "profile")

    def speed_of(rate: float) -> dict[str, float]:
        return speed.scalars(rate) | clock.scalars()

    metrics = StepMetrics(writer, config, start, lambda: checkpoints.latest, seen.names, speed_of)
    bar = functools.partial(tqdm, unit="step", disable=None if is_main() else True, mininterval=1.0)
    try:
        with (
            StopRequest() as stop,
            Watchdog(config.hang_seconds, RESTART) as watchdog,
            bar(total=config.steps, initial=start) as progress,
        ):
            for step in range(start + 1, config.steps + 1):
                trace.before(step)
                with clock.waiting_for_data(device):
                    read = _next(data, step, config, rows)
                batch = place_batch(task.layout, seen.take(step, read), size)
                if step == start + 1:
                    clock.enter("compiling")
                    speed = measure(task, train_step, state, batch, size)
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, scalars = train_step(state, batch)
                device.given(scalars)
                clock.enter("steps")
                metrics.record(step, scalars, total(stop.votes()))
                if trace.ends_with(step):
                    metrics.flush()
                    trace.stop()
                    logging.info("%s", trace.how_to_look())
                progress.update()
                watchdog.beat(f"step {step + 1}")
                stopped_by = _agreed(stop, metrics.sums)
                last = step == config.steps or stopped_by is not None
                if last or due(step, config.checkpoint_every):
                    metrics.flush()  # a state is saved only once its own metrics are known finite
                    with clock.part("checkpoints"):
                        writer.flush()
                        run.try_publish()
                        record = clock.record()
                        kept = state if frozen is None else saved_part(task, state)
                        checkpoints.save(step, kept, data.get_state(), plan, record, frozen)
                if due(step, config.sample_every) or (last and config.sample_every):
                    metrics.flush()
                    if stopped_by is None:
                        with clock.part("samples"):
                            scalars = _sample(task, state, run.path / "samples", step)
                        metrics.log(step, scalars)
                watchdog.beat(f"step {step + 1}")
                if stopped_by is not None:
                    logging.info("signal %d: saved step %d and stopping", stopped_by, step)
                    break
            else:
                stopped_by = None
        logging.info("%s", "; ".join(filter(None, (str(clock), in_words(metrics.last)))))
        return LoopResult(state, metrics.last, stopped_by)
    finally:
        trace.stop()
        device.close()
        checkpoints.close()
        writer.close()


def _agreed(stop: StopRequest, sums: np.ndarray) -> int | None:
    """The signal for which all processes stop after this step, or None.

    One process alone stops at once. Of several each one's wish goes along with its step, and all of them read the
    sum after the same one: no process is a step ahead of another when the state is saved.
    """
    if jax.process_count() == 1:
        return stop.signum
    wanted = [s for s, count in zip(stop.signums, sums, strict=False) if count]
    return wanted[0] if wanted else None


class _Seen:
    """The examples of the last steps' batches, for messages."""

    def __init__(self, data: DataIterator, rows: Sequence[int], micro_batches: int):
        self._rows, self._micro_batches = np.array(rows), micro_batches
        self._steps: deque[tuple[int, dict[str, np.ndarray]]] = deque(maxlen=3)
        self._name_of = getattr(data, "name_of", _number)

    def take(self, step: int, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the batch without the numbers of its examples, which are kept."""
        numbers = {n: array for n, array in batch.items() if n.partition(":")[0] == EXAMPLE}
        self._steps.append((step, numbers))
        return {name: array for name, array in batch.items() if name not in numbers}

    def names(self, step: int, part: int) -> list[str]:
        """The names of this process' examples of a step, of its micro batch `part` alone where that is known."""
        chosen = slice(None)
        if part >= 0 and self._micro_batches:
            chosen = self._rows % self._micro_batches == part
        return [
            self._name_of(int(number), *filter(None, [name.partition(":")[2]]))
            for name, numbers in dict(self._steps).get(step, {}).items()
            for number in numbers[chosen]
        ]


def _number(number: int, part: str = "") -> str:
    return f"number {number} of the {part}" if part else f"number {number}"


def _restore(
    task: Task,
    data: DataIterator,
    config: LoopConfig,
    folder: AnyPath,
    extend: bool,
    begun_with: int | None,
    start_from: Params | Callable[[], Params] | None,
) -> tuple[Restored, Plan, str | None]:
    """The newest intact checkpoint, how the run goes on from it, and what that changes."""

    def next_plan(saved: Saved) -> tuple[Plan, str | None]:
        before = saved.plan or new_plan(begun_with or config.steps)
        rates_of = lambda end: task.with_schedule_end(end).rates
        return go_on(rates_of, config.steps, saved.step, before, extend)

    frozen: list[Params] = []  # read once, when a checkpoint is found that lacks them

    def like(saved: Saved) -> State:
        if saved.frozen is None:
            return shapes_of(task)
        if not frozen:
            frozen.append(start_from() if callable(start_from) else start_from)
        check_frozen(saved.frozen, frozen[0])
        return saved_part(task, shapes_of(task))

    restored = restore_newest(folder, like, data, next_plan)
    if restored.saved.frozen is not None:
        state = completed(task, restored.state, frozen[0])
        restored = dataclasses.replace(restored, state=state)
    return restored, *next_plan(restored.saved)


def _tell(restored: Restored, change: str | None, folder: AnyPath) -> None:
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


def _next(
    data: DataIterator, step: int, config: LoopConfig, rows: Sequence[int]
) -> dict[str, np.ndarray]:
    try:
        batch = next(data)
    except StopIteration:
        raise UserError(
            f"the data ended before step {step} of {config.steps}; it has to repeat"
        ) from None
    sizes = {name: len(value) for name, value in batch.items()}
    if any(size != len(rows) for size in sizes.values()):
        here = "" if len(rows) == config.global_batch_size else f", {len(rows)} of them here"
        raise UserError(
            f"a batch has sizes {sizes}, global_batch_size is {config.global_batch_size}{here}"
        )
    return batch
