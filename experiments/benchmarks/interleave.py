"""Two programs measured interleaved, each in a process of its own, so that a busy hour hits both.

A program reads one JSON request a line and answers each with one JSON line: `serve` on its side,
`Program` on the other.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_TURN = 0.3  # seconds that a turn lasts at least


def serve(answer: Callable[[dict], Any]) -> None:
    """Answers requests until there are no more."""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


class Program:
    """A module of this repository run by another interpreter (or this one)."""

    def __init__(self, python: str | Path, module: str, *arguments: str):
        # Idle threads of the one must not spin while the other works.
        env = os.environ | {"OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [str(python), "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            cwd=ROOT,
            env=env,
        )

    def ask(self, **request) -> Any:
        """The answer to one request; raises when the program has died."""
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._process.args)} ended: {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:  # it has answered all that it was asked
            self._process.kill()
            self._process.wait()


def seconds_per_call(call: Callable[[], Any]) -> float:
    """Returns the seconds of one call, over as many as fill a round; `call` returns when it is done."""
    count, start = 0, time.perf_counter()
    while True:
        call()
        count += 1
        passed = time.perf_counter() - start
        if passed > _TURN:
            return passed / count


def interleaved(programs: Sequence[Program], repeat: int, **request) -> list[list[float]]:
    """Seconds of each program's turns."""
    for program in programs:
        program.ask(**request)  # compiles, warms up
    samples = [[program.ask(**request) for program in programs] for _ in range(repeat)]
    return [list(column) for column in zip(*samples, strict=True)]


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns how many times faster ours is: the median over the interleaved pairs."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
