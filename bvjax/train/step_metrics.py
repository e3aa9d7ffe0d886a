"""The metrics of steps on their way from the device to the log: one step late, as means, with what was left out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from absl import logging

from bvjax.train.config import LoopConfig
from bvjax.train.metrics import MetricWriter
from bvjax.train.wall_time import PARTS

# Of a step's metrics those that say whether it changed anything, see `one_model.make_train_step`.
SKIPPED, BAD_PART = "skipped", "bad_part"
NOT_SHOWN = {"wall_seconds", *PARTS.values()} - {"goodput"}  # in the log; metrics.csv has them


class StepMetrics:
    """Takes each step's metrics, reads them one step late, and writes their means.

    Reading step t-1 after step t was dispatched keeps the device busy.
    """

    def __init__(
        self,
        writer: MetricWriter,
        config: LoopConfig,
        start: int,
        latest_checkpoint: Callable[[], int | None],
        names_of: Callable[[int, int], Sequence[str]] = lambda step, part: (),
        speed_of: Callable[[float], dict[str, float]] = lambda rate: {},
    ):
        """Writes the metrics of the steps after `start`.

        Args:
            writer: gets the means.
            config: of the loop.
            start: steps done before.
            latest_checkpoint: the step of the newest one, for the message of a run that stops.
            names_of: (step, micro batch or -1) -> the examples in it, of those that this process has read.
            speed_of: steps a second -> scalars of the speed and of where time went.
        """
        self.last: dict[str, float] = {}
        self.sums = np.zeros(
            0, np.int64
        )  # what all processes said in the newest step that was read
        self._writer, self._config = writer, config
        self._latest_checkpoint, self._names_of = latest_checkpoint, names_of
        self._speed_of = speed_of
        self._pending: tuple[int, Mapping[str, jax.Array], jax.Array | np.ndarray] | None = None
        self._interval: list[dict[str, float]] = []
        self._skipped = 0
        self._first = start + 1
        self._clock, self._clock_step = time.monotonic(), start

    def record(
        self,
        step: int,
        metrics: Mapping[str, jax.Array],
        sums: jax.Array | np.ndarray,
    ) -> None:
        """Takes the metrics of a step and the sums over processes; reads those of the step before."""
        previous, self._pending = self._pending, (step, metrics, sums)
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

    def _read(self, pending) -> None:
        if pending is None:
            return
        step, on_device, sums = pending
        metrics = {k: float(v) for k, v in jax.device_get(dict(on_device)).items()}
        self.sums = np.asarray(sums)
        skipped, part = metrics.pop(SKIPPED, 0.0) > 0, int(metrics.pop(BAD_PART, -1))
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad and not skipped:
            raise FloatingPointError(self._not_finite(step, bad))
        if skipped:
            self._skip(step, bad, part)
        else:
            self._interval.append(metrics)
        if step == self._first:  # what came before was compilation
            self._clock, self._clock_step = time.monotonic(), step
        if due(step, self._config.log_every) or step == self._config.steps:
            self._write(step)

    def _skip(self, step: int, bad: list[str], part: int) -> None:
        self._skipped += 1
        names = self._names_of(step, part)
        told = f"; the examples in it: {', '.join(names)}" if names else ""
        if self._skipped > self._config.max_skipped:
            limit = ""
            if self._config.max_skipped:
                limit = (
                    f"; train.max_skipped={self._config.max_skipped} updates were left out before"
                )
            raise FloatingPointError(self._not_finite(step, bad) + told + limit)
        logging.warning(
            "update %d is left out, %s not finite (%d of at most train.max_skipped=%d)%s",
            step,
            ", ".join(bad) or "it is",
            self._skipped,
            self._config.max_skipped,
            told,
        )

    def _not_finite(self, step: int, bad: list[str]) -> str:
        latest = self._latest_checkpoint()
        good = "there is no checkpoint yet"
        if latest is not None:
            good = f"the last good checkpoint is that of step {latest}"
        return f"{', '.join(bad)} not finite at step {step}; {good}"

    def _write(self, step: int) -> None:
        names = self._interval[0] if self._interval else ()
        means = {k: float(np.mean([m[k] for m in self._interval])) for k in names}
        now = time.monotonic()
        rate = (step - self._clock_step) / max(now - self._clock, 1e-9)
        self._interval, self._clock, self._clock_step = [], now, step
        means |= self._speed_of(rate)
        if self._skipped:
            means["skipped_updates"] = float(self._skipped)
        self._writer.write(step, means)
        self.last |= means
        remaining = f", {(self._config.steps - step) / rate / 60:.1f} min left" if rate > 0 else ""
        shown = {k: v for k, v in means.items() if k not in NOT_SHOWN}
        logging.info("step %d/%d: %s%s", step, self._config.steps, _format(shown), remaining)


def due(step: int, every: int) -> bool:
    """Whether something that is done `every` so many steps (0: never) is due."""
    return every > 0 and step % every == 0


def _format(scalars: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
