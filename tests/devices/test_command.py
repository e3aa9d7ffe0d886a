"""The command `experiments.train` itself: two processes of four devices are one of eight, however they are stopped."""

from __future__ import annotations

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from small_runs import make_stories

from bvjax.distributed.cluster import local_flags
from bvjax.distributed.start import RESTART
from bvjax.weights import load_weights

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "support" / "small_dit.py"
FIXED = ("loss", "block", "anchor", "grad_norm", "param_norm")


def begin(folder, workdir, processes, devices, *words, data="data=8"):
    """The processes of a run, each with `devices` virtual devices."""
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [
        *(sys.executable, "-m", "experiments.train", f"--config={CONFIG}"),
        *(f"--workdir={workdir}", f"--config.train.mesh={data}", *words),
    ]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return [
        subprocess.Popen([*command, *o], env=env, cwd=folder, **pipes)
        for o in local_flags(processes)
    ]


def end(running, *codes):
    """What the processes said; they are asserted to end with these exit codes (0 for all where none is given)."""
    texts = [process.communicate(timeout=300)[0] for process in running]
    found = [process.returncode for process in running]
    assert found == [*codes] if codes else not any(found), "\n----\n".join(texts)[-6000:]
    return texts


def rows(workdir):
    with open(workdir / "metrics.csv", newline="") as f:
        return list(csv.DictReader(f))


def losses(workdir):
    return np.array([[float(row[name]) for name in FIXED] for row in rows(workdir)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with data, and a run of one process in `one`."""
    folder = tmp_path_factory.mktemp("command")
    make_stories(folder / "data" / "weights", folder / "data" / "latents", train=11)
    end(begin(folder, "one", 1, 8))
    return folder


@pytest.mark.slow
def test_two_processes_train_to_the_losses_of_one(folder):
    texts = end(begin(folder, "two", 2, 4, "--config.train.sample_every=6"))
    np.testing.assert_allclose(losses(folder / "two"), losses(folder / "one"), rtol=1e-5)
    assert [row["step"] for row in rows(folder / "two")] == list("123456")
    assert np.isfinite(float(rows(folder / "two")[-1]["heldout_loss"]))
    assert len(list((folder / "two" / "samples").iterdir())) == 1
    assert len(list((folder / "two").glob("events.out.tfevents.*"))) == 1
    assert "wrote the dit" in texts[0] and "wrote the dit" not in texts[1]
    one, two = (load_weights(folder / run / "weights", ["dit"])[1]["dit"] for run in ("one", "two"))
    kernel = lambda params: params["blocks"]["self_attn"]["q"]["kernel"]
    np.testing.assert_allclose(kernel(two), kernel(one), atol=2e-3)  # stored as float16


@pytest.mark.slow
def test_weights_sharded_over_processes_are_exported_whole(folder):
    # Without accumulation, as the other run: keys are those of micro batches.
    batch = "--config.train.device_batch_size=4"
    end(begin(folder, "sharded", 2, 4, batch, data="fsdp=4,data=2"))
    np.testing.assert_allclose(
        losses(folder / "sharded")[:, 0], losses(folder / "one")[:, 0], rtol=1e-4
    )
    assert load_weights(folder / "sharded" / "weights", ["dit"])


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one(folder):
    workdir = "from_two"
    stop_after(folder, workdir, begin(folder, workdir, 2, 4), 2)
    end(begin(folder, workdir, 1, 8))
    assert [row["step"] for row in rows(folder / workdir)] == list("123456")
    np.testing.assert_allclose(losses(folder / workdir), losses(folder / "one"), rtol=1e-5)


def stop_after(
    folder, workdir, running, step, signum=signal.SIGTERM, which=1, codes=(RESTART, RESTART)
):
    """Sends a signal to one process once `step` is logged, and waits for all."""
    path = folder / workdir / "metrics.csv"
    for _ in range(15000):
        if path.exists() and len(rows(folder / workdir)) >= step:
            break
        time.sleep(0.02)
    else:
        raise AssertionError(f"step {step} never came")
    running[which].send_signal(signum)
    return end(running, *codes)
