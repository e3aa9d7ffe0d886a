"""The shares of a run's time, on clocks that are moved by hand."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from bvjax.train.wall_time import PARTS, DeviceTime, WallTime


class Clock:
    """Reads the same until it is moved."""

    def __init__(self, start: float = 0.0):
        self.time = start

    def __call__(self) -> float:
        return self.time


def seconds(wall: WallTime) -> dict[str, float]:
    return {part: s for part, s in wall.record()["seconds"].items() if s}


def test_every_second_belongs_to_one_part():
    now = Clock(100.0)
    wall = WallTime(now=now, date=now)
    now.time += 3.0
    wall.enter("steps")
    now.time += 10.0
    with wall.part("checkpoints"):
        now.time += 5.0
        with wall.part("samples"):
            now.time += 1.0
    now.time += 1.0
    assert seconds(wall) == {"starting": 3.0, "steps": 11.0, "checkpoints": 5.0, "samples": 1.0}
    scalars = wall.scalars()
    assert scalars.pop("wall_seconds") == 20.0
    assert scalars["goodput"] == pytest.approx(0.55)
    assert sum(scalars.values()) == pytest.approx(1.0) and set(scalars) == {*PARTS.values()}
    assert "0.3 minutes: goodput 55.0 %, waiting for data 0.0 %" in str(wall)


@pytest.mark.parametrize("busy, lost", [(-5.0, 4.0), (1.5, 2.5), (9.0, 0.0)])
def test_waiting_for_data_costs_what_the_device_stands_still(busy, lost):
    class Device:
        def done_at(self, now):
            return min(began + busy, now)

    now = Clock()
    wall = WallTime(now=now, date=now)
    wall.enter("steps")
    now.time, began = 2.0, 2.0
    with wall.waiting_for_data(Device()):
        now.time += 4.0
    assert wall.record()["seconds"]["data"] == lost
    assert wall.record()["seconds"]["steps"] == 6.0 - lost


def test_what_came_after_the_checkpoint_is_lost():
    now, date = Clock(), Clock(1e9)
    wall = WallTime(now=now, date=date)
    wall.enter("steps")
    now.time += 60.0
    record = wall.record()  # steps after it are made once more
    date.time += 45.0
    again = WallTime(now=now, date=date)
    now.time += 2.0  # reading the checkpoint: of the 45 seconds
    again.go_on(record)
    again.enter("steps")
    now.time += 15.0
    assert seconds(again) == {"steps": 75.0, "starting": 45.0}


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        {},
        {"seconds": {}, "at": 1.0},
        {"seconds": dict.fromkeys(PARTS, "1"), "at": 1.0},
        {"seconds": dict.fromkeys(PARTS, float("nan")), "at": 1.0},
        {"seconds": dict.fromkeys(PARTS, 1.0), "at": -1.0},
    ],
)
def test_a_strange_record_is_no_record(damaged):
    now = Clock()
    assert seconds(WallTime(damaged, now=now, date=now)) == {}


def test_the_device_is_done_when_its_outputs_are_there():
    now = Clock(7.0)
    device = DeviceTime(now)
    assert device.done_at(3.0) == float("-inf")
    device.given(jnp.ones(3))
    device._thread.shutdown(wait=True)
    assert device.done_at(9.0) == 7.0
    device.close()
