"""Speed of a run: steps and examples a second, and the share of the devices' peak that the model's work is (MFU)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging

from bvjax import flops
from bvjax.chips import chip_of
from bvjax.train.task import Batch, State, Task

RECOMPUTED = "rematted_computation"  # JAX's scope of what a backward pass does once more


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Rates of a run.

    Args:
        examples: of a step.
        work: FLOPs of a step; None: not known.
        devices: that share it.
        peak: FLOP/s of one of them, dense bfloat16; None: not known, as of a CPU.
    """

    examples: int
    work: int | None = None
    devices: int = 1
    peak: float | None = None

    def scalars(self, steps_per_second: float) -> dict[str, float]:
        """By their names in the metrics; TFLOP/s, and `mfu` as a fraction, where the peak is known, else GFLOP/s."""
        scalars = {
            "steps_per_second": steps_per_second,
            "examples_per_second": steps_per_second * self.examples,
        }
        if self.work is None:
            return scalars
        rate = self.work * steps_per_second / self.devices
        if self.peak is None:
            return scalars | {"gflops_per_device": rate / 1e9}
        return scalars | {"tflops_per_device": rate / 1e12, "mfu": rate / self.peak}


def measure(
    task: Task, step: jax.stages.Wrapped, state: State, batch: Batch, examples: int
) -> Throughput:
    """The rates of a task, whose `step` is compiled for `state` and `batch` (arrays or shapes).

    Work is that of all matmuls and convolutions of a step as it is on one device, what the backward pass recomputes
    left out. Where it cannot be counted, a line of the log says why.
    """
    devices = 1 if task.layout.mesh is None else task.layout.mesh.devices.size
    chip = chip_of(jax.devices()[0].device_kind)
    work = None
    try:
        work = _work(task, step, state, batch)
    except Exception as error:  # nothing of the training depends on it
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        logging.warning("the FLOPs of a step are not known (%s)", reason)
    return Throughput(examples, work, devices, None if chip is None else chip.flops)


def _work(task: Task, step: jax.stages.Wrapped, state: State, batch: Batch) -> int:
    if task.layout.mesh is None and jax.default_backend() == "cpu":
        counts = flops.count_traced(step.trace(state, batch).jaxpr.jaxpr, part=_part)
    else:
        # Kernels in their plain form, whose FLOPs can be read off: what programs are traced for is part of the key by
        # which JAX keeps traces, so that nothing of it comes into those that run.
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, batch))
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            counts = flops.count(task.on_one_device().train_step, *shapes, part=_part)
    return counts["model"]


def _part(path: str) -> str:
    return "recomputed" if RECOMPUTED in path else "model"


def in_words(scalars: Mapping[str, Any]) -> str:
    """A few words on the speed, for the end of a run."""
    said = [f"{scalars[n]:.3g} {w}" for n, w in WORDS.items() if n in scalars]
    return ", ".join(said)


WORDS = {
    "steps_per_second": "steps/s",
    "examples_per_second": "examples/s",
    "gflops_per_device": "GFLOP/s a device",
    "tflops_per_device": "TFLOP/s a device",
    "mfu": "MFU",
}
