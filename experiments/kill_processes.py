"""Kills processes of a training at random steps, goes on, and compares with a run that nothing disturbed:

python -m experiments.kill_processes --out=runs/kills --kills=20 -- TRAINING

TRAINING are words for Python, `-m experiments.train --config=FILE --workdir={workdir}` for example; `{workdir}` becomes
a folder of the run, and --coordinator, --num-processes and --process-id are added. Each kill is `kill -9` of one
process, drawn like the step after which it comes; when all processes have ended the same command is started again. In
the end the metrics of every step and the files of exported weights must be equal to the last bit. OUT/kills.json has
what happened.

Exit codes: 0 equal, 1 not equal, or a process that did not end.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bvjax import console
from bvjax.distributed.cluster import local_flags
from bvjax.errors import UserError
from bvjax.files import write_json
from bvjax.train.throughput import WORDS
from bvjax.train.wall_time import PARTS

TIMES = {"wall_seconds", *PARTS.values(), *WORDS}  # columns that no two runs have alike
PATIENCE = 600.0  # seconds without a step, or without an end after a kill
POLL = 0.05


@dataclasses.dataclass(frozen=True)
class Kill:
    """A kill: after which step, of which process, and the newest checkpoint that was left."""

    step: int
    process: int
    kept: int

    @property
    def lost(self) -> int:
        """Steps that are made once more."""
        return self.step - self.kept


@dataclasses.dataclass(frozen=True)
class Training:
    """A command that trains in a folder, in several processes of some virtual devices each."""

    words: tuple[str, ...]  # for Python; {workdir} is the folder
    processes: int = 2
    devices: int = 4

    def begin(self, workdir: Path) -> list[subprocess.Popen[bytes]]:
        """Starts the processes; what they print goes into a file beside the folder."""
        flags = f"--xla_force_host_platform_device_count={self.devices}"
        env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        words = [word.replace("{workdir}", str(workdir)) for word in self.words]
        running = []
        for process, own in enumerate(local_flags(self.processes)):
            with open(workdir.with_name(f"{workdir.name}_{process}.log"), "ab") as log:
                command = [sys.executable, *words, *own]
                running.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        return running

    def finish(self, workdir: Path) -> None:
        """Runs to the end; raises `UserError` where that fails."""
        running = self.begin(workdir)
        codes = [process.wait() for process in running]
        if any(codes):
            raise UserError(f"the training in {workdir} ended with exit codes {codes}")

    def disturbed(self, workdir: Path, steps: Sequence[int], victims: Sequence[int]) -> list[Kill]:
        """Runs to the end, with a kill after each of `steps`.

        Raises `UserError` for processes that go on after one of them is gone, or end by themselves.
        """
        kills = []
        for step, victim in zip(steps, victims, strict=True):
            running = self.begin(workdir)
            _wait(lambda step=step: last_step(workdir) >= step, f"step {step}", running)
            running[victim].kill()
            done = last_step(workdir)
            _wait(lambda running=running: all(p.poll() is not None for p in running), "the end")
            kills.append(Kill(done, victim, newest_checkpoint(workdir)))
        self.finish(workdir)
        return kills


def _wait(done, what: str, running: Sequence[subprocess.Popen[bytes]] = ()) -> None:
    begun = time.monotonic()
    while not done():
        if any(process.poll() is not None for process in running):
            raise UserError(f"a process ended before {what}")
        if time.monotonic() - begun > PATIENCE:
            raise UserError(f"{what} did not come in {PATIENCE:g} seconds")
        time.sleep(POLL)


def rows(workdir: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the columns of time; none while it is not there."""
    path = workdir / "metrics.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    return [{name: text for name, text in row.items() if name not in TIMES} for row in table]


def last_step(workdir: Path) -> int:
    """The last step whose metrics are written; 0: none."""
    written = rows(workdir)
    return int(written[-1]["step"]) if written else 0


def newest_checkpoint(workdir: Path) -> int:
    """The step of the newest checkpoint; 0: there is none."""
    folder = workdir / "checkpoints"
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def differences(one: Path, two: Path) -> list[str]:
    """Lists the differences of two finished runs, in metrics and in the files of exported weights."""
    found = []
    a, b = rows(one), rows(two)
    if [row["step"] for row in a] != [row["step"] for row in b]:
        found.append("the steps of metrics.csv")
    for x, y in zip(a, b, strict=False):
        names = [name for name in {*x, *y} if x.get(name) != y.get(name)]
        if names:
            found.append(f"step {x['step']}: {', '.join(sorted(names))}")
    files = [
        {p.relative_to(run).as_posix() for p in (run / "weights").rglob("*") if p.is_file()}
        for run in (one, two)
    ]
    if files[0] != files[1] or not files[0]:
        found.append("the names of the files of weights")
    # config.json tells of the speed, too
    tensors = {n for n in files[0] & files[1] if not n.endswith(".json")}
    found += [n for n in sorted(tensors) if (one / n).read_bytes() != (two / n).read_bytes()]
    return found


def compare(training: Training, out: Path, kills: int, seed: int) -> tuple[list[Kill], list[str]]:
    """A run that nothing disturbs and one with kills, in `out`: what was killed, and what differs."""
    out.mkdir(parents=True, exist_ok=True)
    whole, disturbed = out / "whole", out / "disturbed"
    if any(path.exists() for path in (whole, disturbed)):
        raise UserError(f"{out} holds runs already; choose another `out`")
    training.finish(whole)
    draw, steps = random.Random(seed), last_step(whole)
    if kills > steps - 2:
        raise UserError(f"kills is {kills}; a run of {steps} steps can have {steps - 2} at most")
    after = sorted(draw.sample(range(1, steps - 1), kills))
    victims = [draw.randrange(training.processes) for _ in after]
    killed = training.disturbed(disturbed, after, victims)
    return killed, differences(whole, disturbed)


def main(words: list[str]) -> int:
    place = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="python -m experiments.kill_processes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=4)
    args = parser.parse_args(words[:place])
    if not any("{workdir}" in word for word in words[place:]):
        raise UserError("give the words of the training after --, with {workdir} for its folder")
    training = Training(tuple(words[place + 1 :]), args.processes, args.devices)
    killed, differ = compare(training, args.out.absolute(), args.kills, args.seed)
    record = {"kills": [dataclasses.asdict(k) | {"lost": k.lost} for k in killed]}
    write_json(args.out / "kills.json", record | {"differences": differ})
    lost = [kill.lost for kill in killed]
    of = ", ".join(
        f"{sum(k.process == p for k in killed)} of process {p}" for p in range(args.processes)
    )
    print(
        f"{len(killed)} kills ({of}), {sum(lost)} steps made again, {max(lost, default=0)} at most"
    )
    print("equal to the last bit" if not differ else "NOT equal: " + "; ".join(differ[:10]))
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(console.run(lambda: main(sys.argv[1:]), "error"))
