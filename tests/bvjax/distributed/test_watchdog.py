"""The watchdog: silent while the loop goes on, stacks and an exit code when it stands still."""

from __future__ import annotations

import threading
import time

from bvjax.distributed.watchdog import Watchdog


def test_a_loop_that_stands_still_is_told_of_and_left(tmp_path):
    left, codes = threading.Event(), []

    def leave(code):
        codes.append(code)
        left.set()

    with open(tmp_path / "log", "w+") as out, Watchdog(0.2, 42, out, leave) as watchdog:
        watchdog.beat("step 7")
        hang_in_here(left)
        out.seek(0)
        text = out.read()
    assert codes == [42]
    assert "process 0: step 7 takes longer than 0.2 s (train.hang_seconds)" in text
    assert "hang_in_here" in text  # the stack of the thread that hung


def hang_in_here(left: threading.Event) -> None:
    assert left.wait(60)


def test_a_loop_that_goes_on_is_left_alone(tmp_path):
    codes = []
    with open(tmp_path / "log", "w+") as out:
        with Watchdog(30.0, 42, out, codes.append) as watchdog:
            for step in range(5):
                watchdog.beat(f"step {step}")
        with Watchdog(0, 42, out, codes.append):
            time.sleep(0.01)
    assert not codes and (tmp_path / "log").read_text() == ""
