"""Run by `test_hosts.py`, once per process: a line is fitted to numbered examples by the loop that trains everything.

python -m tests.devices.hosts WORKDIR [--coordinator= --num-processes= --process-id= --nan=EXAMPLE --hang=STEP --steps=N ...]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bvjax.distributed import start
from bvjax.distributed.cluster import Options
from bvjax.random import normal
from bvjax.train.config import OneModelConfig
from bvjax.train.loop import fit
from bvjax.train.one_model import OneModelTask, training_layout
from bvjax.train.optimizer import OptimizerConfig
from data_pipelines.encoded.batches import batches
from data_pipelines.encoded.example import ExampleSpec

STEPS, BATCH, EXAMPLES, EVERY = 12, 8, 21, 3


class Line:
    """y = x k + b."""

    part, axes, frozen = "dit", ("data", "fsdp"), ()

    def init(self, key):
        return {"blocks": {"self_attn": {"q": {"kernel": jax.random.normal(key, (1, 8, 4))}}}}

    def loss(self, params, batch, key):
        y = batch["x"] @ params["blocks"]["self_attn"]["q"]["kernel"][0]
        target = jnp.sin(batch["x"][:, :4] * 3) + 0.1 * normal(key, y.shape)
        return jnp.mean((y - target) ** 2), {"seen": jnp.sum(batch["number"])}

    def sample(self, params, folder, step):
        return {}

    def export(self, params, folder, meta):
        folder.mkdir()
        np.save(folder / "kernel.npy", params["blocks"]["self_attn"]["q"]["kernel"])


class Numbered:
    """Example i is drawn from the seed i; one may make the loss NaN, and reading one may take for ever."""

    title, null_text = "the numbers", np.zeros((1, 1), np.float32)
    spec = ExampleSpec(1, 1, (1, 1, 1), (1, 1))

    def __init__(self, nan: int, log: Path):
        self.nan, self.log = nan, log

    def __len__(self):
        return EXAMPLES

    def __getitem__(self, index):
        with open(self.log, "a") as log:
            log.write(f"{index}\n")
        x = np.random.default_rng(index).normal(size=8).astype(np.float32)
        return {"x": x * (1e30 if index == self.nan else 1), "number": np.float32(index)}

    def name_of(self, number):
        return f"clip_{number}"


class Paced:
    """Batches that take a while each; at `hang` one never comes."""

    def __init__(self, batches, pause: float, hang: int):
        self.batches, self.pause, self.hang = batches, pause, hang
        self.name_of, self.get_state = batches.name_of, batches.get_state
        self.set_state = batches.set_state

    def __next__(self):
        if self.get_state()["next_index"] == self.hang:
            wait_for_ever()
        time.sleep(self.pause)
        return next(self.batches)


def wait_for_ever() -> None:
    while True:
        time.sleep(1.0)


def train(args: argparse.Namespace) -> int:
    config = OneModelConfig(
        steps=args.steps, global_batch_size=BATCH, device_batch_size=1, log_every=1, sample_every=0,
        checkpoint_every=EVERY, keep=2, max_skipped=args.max_skipped, mesh=args.mesh,
        hang_seconds=args.hang_seconds,
    )  # fmt: skip
    layout = training_layout(config, Line.axes, "line")
    task = OneModelTask(Line(), OptimizerConfig(lr=0.05), config, layout)
    from bvjax.train.mesh import local_rows

    rows = local_rows(layout, BATCH)
    args.workdir.mkdir(exist_ok=True)
    source = Numbered(args.nan, args.workdir / f"read_{jax.process_index()}.log")
    hang = args.hang if jax.process_index() == 1 else -1
    data = Paced(batches(source, BATCH, 0, rows), args.pause, hang)
    result = fit(task, data, config, args.workdir)
    if result.stopped_by is None:
        task.export(result.state, args.workdir / "weights", {})
    print(json.dumps({"rows": rows, "step": int(result.state.step)}), flush=True)
    return {None: 0, signal.SIGINT: 130}.get(result.stopped_by, start.RESTART)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--coordinator")
    for name, default in (("num-processes", None), ("process-id", None), ("nan", -1), ("hang", -1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--max-skipped", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--hang-seconds", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--mesh", default="data=8")
    a = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", None)
    sys.exit(start.run(lambda: train(a), Options(a.coordinator, a.num_processes, a.process_id)))
