"""One thread for the accelerator: runs take turns, and what is asked for is done between two chunks.

A run's turn ends when it is finished, paused or stopped, and after `TURN` new chunks where others wait; nothing is lost
by it, as a run goes on from its folder.  A paused run stays in memory until somebody else needs the machine, so that
going on costs nothing; a stopped one is let go of, and the command line can open it.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import threading
import traceback
from collections.abc import Callable
from typing import Any

from absl import logging

from bvjax import compilation, machine
from bvjax.errors import UserError, WorkError
from bvjax.files import DISK_FULL
from bvjax.loading.bundle import Bundle
from bvjax.runs.execute import Progress, is_finished
from bvjax.runs.fit import check_weights
from bvjax.runs.run_dir import RunDir
from bvjax.studio.fair_queue import FairQueue
from bvjax.studio.lora_library import LoraLibrary
from bvjax.studio.making import Event, Tell, follow
from bvjax.studio.previews import Decoder, Previews
from bvjax.studio.versions import Versions

TURN = 4  # new chunks that a run may make while others wait
MOST_WAITING = 100  # runs in the queue
OURS = "studio"  # the visitor of what nobody asked for by name

Work = Callable[[RunDir], Any]


@dataclasses.dataclass
class Job:
    """A run that was asked for: what is wanted of it, and how far it is; changed under the lock of `Jobs` alone."""

    name: str
    visitor: str
    wanted: str = "go"  # go | pause | stop
    state: str = "waiting"  # waiting | working | paused | stopped | finished | failed
    chunk: int = 0  # the last one that is there
    error: str = ""
    new: int = 0  # chunks made in this turn


@dataclasses.dataclass(frozen=True)
class _Order:
    """Work on an open run that has to be done between two chunks."""

    name: str
    work: Work
    answer: concurrent.futures.Future
    exclusive: bool  # whether the run must not be under way


class Jobs:
    """The queue, and the thread that serves it.  `tell` is called from that thread, and from callers'."""

    def __init__(
        self,
        bundle: Bundle,
        versions: Versions,
        tell: Tell,
        turn: int = TURN,
        library: LoraLibrary | None = None,
        decoder: Decoder | None = None,
    ):
        self._versions, self._tell, self._turn = versions, tell, turn
        self._library = library or LoraLibrary(bundle)
        self._previews = Previews(bundle, tell, decoder)
        self._wake = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._queue: FairQueue[str] = FairQueue()
        self._orders: collections.deque[_Order] = collections.deque()
        self._closing = False
        self._held: str | None = None  # the run that is open in the thread
        self._told: dict[str, dict[str, Any]] = {}  # states that pages know
        self._thread = threading.Thread(target=self._serve, name="studio-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Lets the chunk at work be finished, and ends the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    # ---- what visitors ask for ----------------------------------------------------------------
    def go(self, name: str, visitor: str) -> None:
        """Puts a run into the queue, or lets a paused one go on; raises `UserError` when too many wait."""
        with self._wake:
            job = self._jobs.get(name)
            if job is None or job.state in ("stopped", "finished", "failed"):
                self.check_room()
                job = self._jobs[name] = Job(name, visitor)
            job.wanted = "go"
            if job.state == "paused" and self._held != name:
                job.state = "waiting"
            if job.state == "waiting":
                self._queue.add(job.visitor, name)
            self._wake.notify_all()
        self._tell_states()

    def check_room(self) -> None:
        """Raises `UserError` when so many runs wait that there is no room for another."""
        with self._wake:
            if len(self._queue) >= MOST_WAITING:
                raise UserError(f"{MOST_WAITING} runs are waiting already; try again later")

    def pause(self, name: str, stop: bool = False) -> None:
        """Lets a run end with the chunk at work; one that only waits leaves the queue at once."""
        with self._wake:
            job = self._jobs.get(name)
            if job is None or job.state in ("stopped", "finished", "failed"):
                return
            job.wanted = "stop" if stop else "pause"
            if self._queue.remove(name) or (stop and job.state == "paused"):
                job.state = "stopped" if stop else "paused"
            self._wake.notify_all()
        self._tell_states()

    def order(
        self, name: str, work: Work, exclusive: bool = True
    ) -> concurrent.futures.Future[Any]:
        """Has `work` done on an open run before the next chunk is finished.

        An exclusive work changes what is made, and may close the run: one under way begins from its folder again.
        """
        answer: concurrent.futures.Future = concurrent.futures.Future()
        with self._wake:
            self._orders.append(_Order(name, work, answer, exclusive))
            self._wake.notify_all()
        return answer

    def forget(self, name: str) -> None:
        """Knows nothing more of a run, which is not under way."""
        with self._wake:
            self._queue.remove(name)
            self._jobs.pop(name, None)
            self._told.pop(name, None)

    def state(self, name: str) -> dict[str, Any]:
        """How a run stands: {"state": ..., "place": ..., ...}; a run that nobody asked for has the state idle."""
        with self._wake:
            return self._state(name)

    def states(self) -> dict[str, dict[str, Any]]:
        """`state` of all runs that were asked for since the studio began."""
        with self._wake:
            return {name: self._state(name) for name in self._jobs}

    # ---- inside -------------------------------------------------------------------------------
    def _state(self, name: str) -> dict[str, Any]:
        job = self._jobs.get(name)
        if job is None:
            return {"state": "idle", "chunk": 0, "place": None, "waiting": len(self._queue)}
        state = job.state
        if state == "working" and job.wanted != "go":
            state = "pausing"
        order = self._queue.order()
        place = order.index(name) + 1 if name in order else None
        found = {"state": state, "chunk": job.chunk, "place": place, "waiting": len(order)}
        return {**found, "error": job.error} if job.error else found

    def _tell_states(self) -> None:
        with self._wake:
            states = {name: self._state(name) for name in self._jobs}
            changed = [name for name in states if self._told.get(name) != states[name]]
            self._told |= states
        for name in changed:
            self._tell(Event({"type": "state", "run": name, **states[name]}))

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not (self._closing or self._orders or len(self._queue)):
                    self._wake.wait()
                if self._closing:
                    return
                name = None if self._orders else self._queue.take()
                if name is not None:
                    self._held = name
                    self._jobs[name].state = "working"
            if name is None:
                self._do_orders(None)
                continue
            self._tell_states()
            self._take_turn(name)

    def _take_turn(self, name: str) -> None:
        """Works on a run until its turn ends; whatever fails is said of the run, and the thread goes on."""
        job, error = self._jobs[name], ""
        try:
            state = self._work_on(job)
        except (UserError, WorkError) as failure:
            state, error = "failed", str(failure)
        except OSError as failure:
            full = failure.errno in DISK_FULL
            state = "failed"
            error = "no space is left on the disk" if full else f"{failure.strerror or failure}"
        except Exception as failure:  # of the machine: memory, a device that is gone
            translated = machine.translated(failure)
            logging.error("%s failed:\n%s", name, traceback.format_exc())
            state, error = "failed", str(translated or f"{type(failure).__name__}: see the log")
        with self._wake:
            self._held, job.error = None, error
            job.state = state
            if state in ("waiting", "interrupted"):
                job.state = {"go": "waiting", "pause": "paused", "stop": "stopped"}[job.wanted]
                if job.state == "waiting":
                    self._queue.give_back(job.visitor, name, first=state == "interrupted")
            if state != "interrupted":
                job.new = 0
            self._wake.notify_all()
        self._tell(Event({"type": "runs"}))
        self._tell_states()

    def _work_on(self, job: Job) -> str:
        """The state in which a run's turn ended."""
        name = job.name
        with RunDir.open(self._versions.path(name)) as run, contextlib.ExitStack() as inside:
            bundle = self._library.bundle_of(run.settings)
            check_weights(run, bundle)
            if is_finished(run):
                return "finished"
            note = lambda text: self._tell(Event({"type": "note", "run": name, "text": text}, name))
            chunk = run.settings.model.chunk
            inside.enter_context(compilation.announced(note, f"{chunk.height}x{chunk.width}"))
            watch = self._previews.watch(run)
            inside.callback(self._previews.rest)
            following = follow(run, bundle, self._versions.store, self._tell, watch)
            inside.enter_context(contextlib.closing(following))
            for progress in following:
                job.new += self._note_chunk(job, progress)
                if (end := self._end_of_turn(job, run)) is not None:
                    return end
            whole = job.chunk >= len(run.captions)
        return "finished" if whole else "interrupted"  # by captions that it could not go on with

    def _note_chunk(self, job: Job, progress: Progress) -> bool:
        with self._wake:
            job.chunk = progress.chunk
        self._tell_states()
        return progress.fresh and progress.chunk > 0

    def _end_of_turn(self, job: Job, run: RunDir) -> str | None:
        """The state to end a turn with after a chunk; None lets it go on.  Orders are done here, pauses wait here."""
        paused = False
        while True:
            self._do_orders(run)
            with self._wake:
                if self._closing or any(o.name == job.name for o in self._orders):
                    return "interrupted"
                if job.wanted == "stop":
                    return "stopped"
                if job.wanted == "go":
                    if job.new >= self._turn and len(self._queue):
                        return "waiting"
                    job.state = "working"
                    break
                if len(self._queue):  # somebody needs the machine
                    return "paused"
                if not paused:
                    job.state, paused = "paused", True
                elif not self._orders:
                    self._wake.wait()
                    continue
            self._tell_states()
        if paused:
            self._tell_states()
        return None

    def _do_orders(self, run: RunDir | None) -> None:
        """Does what was asked for; what changes the open run `run` waits until it is closed."""
        while True:
            with self._wake:
                held = run.path.name if run is not None else None
                ready = [o for o in self._orders if not (o.name == held and o.exclusive)]
                if not ready:
                    return
                self._orders.remove(ready[0])
            self._do(ready[0], run if ready[0].name == held else None)

    def _do(self, order: _Order, run: RunDir | None) -> None:
        """Does one work, on the run that is open or on one that is opened for it, and gives the answer."""
        if not order.answer.set_running_or_notify_cancel():
            return
        try:
            if run is not None:
                order.answer.set_result(order.work(run))
                return
            with RunDir.open(self._versions.path(order.name)) as opened:
                result = order.work(opened)
            order.answer.set_result(result)
        except Exception as error:
            order.answer.set_exception(error)
