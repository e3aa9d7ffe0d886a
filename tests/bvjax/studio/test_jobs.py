"""The worker: turns, pauses, and what is asked for between chunks.  No chunk is made: `follow` is a stand-in."""

import json
import threading
import time

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.runs.execute import Progress
from bvjax.studio import jobs as jobs_module
from bvjax.studio import previews
from bvjax.studio.jobs import Jobs
from bvjax.studio.protocol import Change, NewRun
from tests.bvjax.studio.conftest import CAPTIONS

CHUNKS = 6


class Machine:
    """Makes a chunk each time it is let; tells which."""

    def __init__(self):
        self.made, self.lets, self.closed = [], threading.Semaphore(0), []
        self.broken: set[str] = set()

    def follow(self, run, bundle, store, tell, watch=None):
        name = run.path.name
        try:
            chunk = self.done(name)
            while (chunk := chunk + 1) <= len(run.captions):  # which may change on the way
                assert self.lets.acquire(timeout=20)
                if name in self.broken:
                    raise UserError("the weights are broken")
                self.made.append((name, chunk))
                yield Progress(chunk, True, {}, np.zeros((1, 1, 1, 3), np.uint8), None, None)
        finally:
            self.closed.append(name)

    def done(self, name):
        return max([chunk for run, chunk in self.made if run == name], default=0)

    def let(self, count):
        for _ in range(count):
            self.lets.release()


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(jobs_module, "follow", machine.follow)
    monkeypatch.setattr(previews, "watch_of", lambda *given: None)
    return machine


@pytest.fixture
def begun(studio, machine):
    """Starts the worker over runs of six chunks: begun(name) makes one."""
    jobs = studio.jobs = Jobs(studio.pipeline.bundle, studio.versions, studio.hub.tell, turn=2)

    def make(title, visitor):
        captions = tuple(CAPTIONS[:1] * CHUNKS)
        return studio.create(NewRun(title, captions, 0, {}, None, None, None), visitor)

    yield make, jobs
    machine.let(100)
    jobs.close()


def until(condition):
    """Waits for the thread; fails rather than wait for ever."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came")


def test_visitors_take_turns(begun, machine):
    make, jobs = begun
    first, second, third = (
        make("one", "visitor-a"),
        make("two", "visitor-a"),
        make("three", "visitor-b"),
    )
    assert [jobs.state(name)["place"] for name in (first, third, second)] == [1, 2, 3]
    machine.let(3 * CHUNKS)
    jobs.start()
    until(lambda: all(jobs.state(n)["state"] == "finished" for n in (first, second, third)))
    # two chunks each, and the second visitor does not wait for both runs of the first
    order = [name for name, _ in machine.made]
    assert order[:4] == [first] * 2 + [third] * 2
    assert [chunk for name, chunk in machine.made if name == second] == list(range(1, CHUNKS + 1))
    assert order.index(second) > order.index(third)


def test_one_alone_is_not_interrupted(begun, machine):
    make, jobs = begun
    name = make("one", "visitor-a")
    machine.let(CHUNKS)
    jobs.start()
    until(lambda: jobs.state(name)["state"] == "finished")
    assert machine.closed == [name]


def test_a_pause_keeps_the_run_open_and_a_stop_does_not(begun, machine, studio):
    make, jobs = begun
    name = make("one", "visitor-a")
    jobs.start()
    machine.let(1)
    until(lambda: machine.made)
    jobs.pause(name)
    machine.let(1)
    until(lambda: jobs.state(name)["state"] == "paused")
    assert not machine.closed
    jobs.go(name, "visitor-a")
    machine.let(1)
    until(lambda: machine.done(name) == 3)
    jobs.pause(name, stop=True)
    machine.let(1)
    until(lambda: jobs.state(name)["state"] == "stopped")
    assert machine.closed == [name]
    jobs.go(name, "visitor-a")
    machine.let(CHUNKS)
    until(lambda: jobs.state(name)["state"] == "finished")


def test_a_paused_run_gives_way(begun, machine):
    make, jobs = begun
    name = make("one", "visitor-a")
    jobs.start()
    jobs.pause(name)
    jobs.go(name, "visitor-a")
    machine.let(1)
    until(lambda: machine.made)
    jobs.pause(name)
    machine.let(1)
    until(lambda: jobs.state(name)["state"] == "paused")
    other = make("two", "visitor-b")
    machine.let(CHUNKS)
    until(lambda: jobs.state(other)["state"] == "finished")
    assert jobs.state(name)["state"] == "paused" and machine.closed == [name, other]


def test_work_on_the_open_run_is_done_between_chunks(begun, machine, studio):
    make, jobs = begun
    name = make("one", "visitor-a")
    jobs.start()
    machine.let(1)
    until(lambda: machine.made)
    looked = jobs.order(name, lambda run: len(run.captions), exclusive=False)
    changed = jobs.order(name, lambda run: run.rewrite_story(run.captions[:4]))
    failing = jobs.order(name, lambda run: 1 / 0)
    assert not looked.done()
    machine.let(1)
    assert looked.result(20) == CHUNKS
    changed.result(20)
    with pytest.raises(ZeroDivisionError):
        failing.result(20)
    machine.let(CHUNKS)
    until(lambda: jobs.state(name)["state"] == "finished")
    assert machine.done(name) == 4  # it went on by itself, with the shorter story
    assert len(json.loads((studio.versions.path(name) / "story.json").read_text())["captions"]) == 4


def test_captions_to_come_change_while_the_run_stays_open(begun, machine, studio):
    make, jobs = begun
    name = make("one", "visitor-a")
    jobs.start()
    machine.let(1)
    until(lambda: machine.made)
    captions = (*CAPTIONS[:1] * 3, "Pip waves.")
    changed = studio.rewrite(name, Change(captions, 1, None, None))
    machine.let(1)
    changed.result(20)
    machine.let(CHUNKS)
    until(lambda: jobs.state(name)["state"] == "finished")
    assert machine.closed == [name] and machine.done(name) == 4


def test_a_run_that_ends_before_its_time_is_begun_again(begun, machine, monkeypatch):
    """As `execute` does where it cannot go on with captions that came."""
    make, jobs = begun
    ends = [2]

    def follow(*given, **named):
        for progress in machine.follow(*given, **named):
            yield progress
            if progress.chunk in ends:
                ends.remove(progress.chunk)
                return

    monkeypatch.setattr(jobs_module, "follow", follow)
    name = make("one", "visitor-a")
    machine.let(CHUNKS)
    jobs.start()
    until(lambda: jobs.state(name)["state"] == "finished")
    assert machine.closed == [name, name] and machine.done(name) == CHUNKS


def test_a_run_that_fails_says_so_and_others_go_on(begun, machine, studio):
    make, jobs = begun
    machine.broken.add("one")
    name, other = make("one", "visitor-a"), make("two", "visitor-a")
    machine.let(CHUNKS + 1)
    jobs.start()
    until(lambda: jobs.state(other)["state"] == "finished")
    assert jobs.state(name)["state"] == "failed"
    assert jobs.state(name)["error"] == "the weights are broken"
    machine.broken.clear()
    jobs.go(name, "visitor-a")
    machine.let(CHUNKS)
    until(lambda: jobs.state(name)["state"] == "finished")


def test_the_queue_has_an_end(begun, monkeypatch, studio):
    make, jobs = begun
    monkeypatch.setattr(jobs_module, "MOST_WAITING", 1)
    make("one", "visitor-a")
    with pytest.raises(UserError, match="1 runs are waiting already"):
        make("two", "visitor-b")
    assert not (studio.versions.root / "two").exists()
