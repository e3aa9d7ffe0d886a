"""SIGTERM in the middle of a run: a process of its own saves, says so and ends; the run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from bvjax.train.signals import StopRequest

SCRIPT = """
import pathlib, sys
import jax.numpy as jnp, numpy as np
from absl import logging
from bvjax.train import loop, optimizer
from bvjax.train.config import OneModelConfig
from bvjax.train.one_model import OneModelTask
from data_pipelines.counter_source import IndexedBatches

class Line:
    part = "dit"
    axes = ("data",)
    frozen = ()
    def init(self, key): return {"kernel": jnp.zeros((2, 1))}
    def loss(self, params, batch, key):
        return jnp.mean((batch["x"] @ params["kernel"] - 1.0) ** 2), {}
    def sample(self, params, folder, step): return {}

logging.set_verbosity(logging.INFO)
config = OneModelConfig(steps=int(sys.argv[2]), global_batch_size=2, device_batch_size=2,
                        log_every=1, sample_every=0, checkpoint_every=0)
batch = lambda i: {"x": np.random.default_rng(i).normal(size=(2, 2)).astype(np.float32)}
adam = optimizer.OptimizerConfig(milestones=(), factors=())
result = loop.fit(OneModelTask(Line(), adam, config), IndexedBatches(batch), config,
                  pathlib.Path(sys.argv[1]), extend=True)
np.save(sys.argv[1] + "/kernel.npy", result.state.params["kernel"])
print("ended by", result.stopped_by)
"""


def start(workdir: Path, steps: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(workdir), str(steps)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_sigterm_saves_and_the_run_goes_on_as_if_nothing_had_happened(tmp_path):
    with start(tmp_path, steps=10**7) as process:
        for line in process.stderr:
            if "step 3/" in line:
                process.send_signal(signal.SIGTERM)
                break
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and out == f"ended by {int(signal.SIGTERM)}\n", err
    (saved,) = (int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert saved >= 3

    whole = tmp_path / "whole"
    whole.mkdir()
    for workdir in (tmp_path, whole):
        with start(workdir, steps=saved + 2) as process:
            assert process.wait(timeout=120) == 0
    resumed, unbroken = (np.load(d / "kernel.npy") for d in (tmp_path, whole))
    np.testing.assert_array_equal(resumed, unbroken)
    assert np.abs(unbroken).max() > 0


def test_signals_are_noted_and_handlers_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert stop.signum is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        assert (
            signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )  # Ctrl-C is at once now
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
