"""Two processes of four devices are one of eight, however they are stopped, by the loop that trains everything."""

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

from bvjax.distributed.cluster import local_flags
from bvjax.distributed.start import RESTART
from experiments.kill_processes import Training, compare
from tests.devices.hosts import BATCH, EVERY, EXAMPLES, STEPS

ROOT = pathlib.Path(__file__).parents[2]


def begin(workdir, processes=2, devices=4, **options):
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}",
    }
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tests.devices.hosts", str(workdir), *words]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return [
        subprocess.Popen([*command, *own], env=env, cwd=ROOT, **pipes)
        for own in local_flags(processes)
    ]


def end(running, *codes):
    """What the processes said; they are asserted to end with these exit codes, by default 0."""
    texts = [process.communicate(timeout=400)[0] for process in running]
    found = [process.returncode for process in running]
    assert found == [*(codes or [0] * len(running))], "\n----\n".join(texts)[-8000:]
    return texts


def rows(workdir):
    with open(workdir / "metrics.csv", newline="") as f:
        return list(csv.DictReader(f))


def column(workdir, name="loss"):
    return np.array([float(row[name]) for row in rows(workdir)])


def wait_for(workdir, step):
    for _ in range(20000):
        if (workdir / "metrics.csv").exists() and len(rows(workdir)) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} never came")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run of one process of eight devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    end(begin(workdir, 1, 8))
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of two processes that nothing stops."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    end(begin(workdir))
    return workdir


def test_two_processes_train_to_the_losses_of_one(one, two):
    np.testing.assert_allclose(column(two), column(one), rtol=1e-5)
    assert column(two, "seen").tolist() == column(one, "seen").tolist()  # the same examples
    assert [row["step"] for row in rows(two)] == [str(n) for n in range(1, STEPS + 1)]
    kernels = [np.load(run / "weights" / "kernel.npy") for run in (one, two)]
    np.testing.assert_allclose(*kernels, rtol=1e-5)
    assert len(list(two.glob("events.out.tfevents.*"))) == 1
    # Each process reads its own half of every batch (and at most two batches ahead), not all of it.
    read = [len((two / f"read_{i}.log").read_text().split()) for i in range(2)]
    assert all(STEPS * BATCH / 2 <= n <= (STEPS + 3) * BATCH / 2 for n in read), read


def test_arrays_sharded_over_processes_are_exported_whole(one, tmp_path):
    end(begin(tmp_path / "run", mesh="fsdp=8"))  # of a batch that each process has whole
    assert np.load(tmp_path / "run" / "weights" / "kernel.npy").shape == (1, 8, 4)


@pytest.mark.parametrize("which", [0, 1])
def test_sigterm_to_any_process_saves_a_step_that_all_agree_on(one, tmp_path, which):
    running = begin(tmp_path / "run", pause=0.2)
    wait_for(tmp_path / "run", 2)
    running[which].send_signal(signal.SIGTERM)
    texts = end(running, RESTART, RESTART)
    steps = [text.rpartition('"step": ')[2].partition("}")[0] for text in texts]
    assert steps[0] == steps[1] and 2 <= int(steps[0]) < STEPS
    assert (tmp_path / "run" / "checkpoints" / steps[0] / "checksums.json").exists()
    # It goes on in one process of eight devices: no example is lost or doubled.
    end(begin(tmp_path / "run", 1, 8))
    np.testing.assert_allclose(column(tmp_path / "run"), column(one), rtol=1e-5)
    assert column(tmp_path / "run", "seen").tolist() == column(one, "seen").tolist()


def test_a_run_goes_on_with_another_number_of_devices(one, tmp_path):
    running = begin(tmp_path / "run", pause=0.2)
    wait_for(tmp_path / "run", 2)
    running[1].send_signal(signal.SIGTERM)
    end(running, RESTART, RESTART)
    end(begin(tmp_path / "run", 1, 1, mesh=""))
    assert column(tmp_path / "run", "seen").sum() > 0
    assert len(rows(tmp_path / "run")) == STEPS


@pytest.mark.slow
def test_processes_that_are_killed_cost_the_interval_alone(tmp_path):
    """Three kills: the script that does this twenty times, `experiments.kill_processes`."""
    words = "-m", "tests.devices.hosts", "{workdir}", "--pause=0.1", "--steps=15"
    kills, differ = compare(Training(words), tmp_path, kills=3, seed=3)
    assert differ == []
    assert len(kills) == 3 and {kill.process for kill in kills} == {0, 1}
    # The checkpoint of a step is whole at the latest when the next one is due.
    assert all(0 <= kill.lost < 2 * EVERY for kill in kills)


def test_a_clip_that_makes_the_loss_nan_is_left_out_named_and_counted(tmp_path):
    updates = 5  # of the run's have the clip: 12 batches of 8 are 4.6 times the 21 examples
    texts = end(begin(tmp_path / "run", nan=5, max_skipped=updates))
    told = [line for text in texts for line in text.splitlines() if "is left out" in line]
    assert sum("clip_5" in line for line in told) == updates  # by the process that read it
    assert rows(tmp_path / "run")[-1]["skipped_updates"] == f"{updates}.0"
    texts = end(begin(tmp_path / "other", nan=5, max_skipped=0), 1, 1)
    assert all("not finite at step" in text for text in texts)


def test_a_damaged_checkpoint_is_passed_over_by_all(two, tmp_path):
    running = begin(tmp_path / "run", pause=0.3)
    wait_for(tmp_path / "run", 2 * EVERY + 2)
    running[0].send_signal(signal.SIGTERM)
    end(running, RESTART, RESTART)
    newest = max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
    part = next(p for p in (tmp_path / "run" / "checkpoints" / str(newest)).rglob("d/*"))
    part.write_bytes(part.read_bytes()[:-1])
    texts = end(begin(tmp_path / "run"))
    assert f"{newest} is damaged" in texts[0]
    assert column(tmp_path / "run").tolist() == column(two).tolist()


def test_a_hang_prints_the_stacks_of_all_processes(tmp_path):
    texts = end(begin(tmp_path / "run", hang=4, hang_seconds=30), RESTART, RESTART)
    assert "wait_for_ever" in texts[1]
    assert "process 1: step" in texts[1] and EXAMPLES
