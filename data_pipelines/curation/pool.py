"""Work shared among processes or threads: stopped by Ctrl-C at once, and going on when a worker is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from bvjax.errors import UserError, WorkError

KILLED = "its worker was killed, twice; there may be too little memory for it"


class Failed:
    """Failure of work that raised, as a sentence."""

    def __init__(self, why: str):
        self.why = why


def run_all(
    function: Callable[[Any], Any], work: Iterable[tuple[str, Any]], workers: int, kind: str
) -> Iterator[tuple[str, Any]]:
    """(name, result) of every piece of work, as they are done; `Failed` where it raised or killed its worker.

    Args:
        function: of a piece of work, at module level.
        work: (name, piece).
        workers: how many at a time; 0 works here, one after the other.
        kind: "processes" or "threads".

    Raises `OSError` of a full disk as it is, for there is no use in going on, and `KeyboardInterrupt`.
    """
    if not workers:
        for name, piece in work:
            yield name, guarded(function, piece)
        return
    pending = iter(work)
    suspects: list[tuple[str, Any]] = []  # that were at work when a worker died
    executor = _executor(kind, workers)
    running: dict[Future, tuple[str, Any]] = {}
    try:
        while True:
            while len(running) < 2 * workers and (item := next(pending, None)) is not None:
                try:
                    running[executor.submit(guarded, function, item[1])] = item
                except BrokenProcessPool:
                    suspects.append(item)
                    break
            if not running and not suspects:
                return
            done = wait(running, return_when=FIRST_COMPLETED).done if running else set()
            broken = bool(suspects)
            for future in done:
                item = running.pop(future)
                try:
                    yield item[0], future.result()
                except BrokenProcessPool:
                    suspects.append(item)
                    broken = True
            if broken:
                suspects += running.values()
                running.clear()
                executor.shutdown(wait=False, cancel_futures=True)
                for name, piece in suspects:
                    yield name, _alone(function, piece)
                suspects, executor = [], _executor(kind, workers)
    except BaseException:
        _stop(executor)
        raise
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _alone(function: Callable[[Any], Any], piece: Any) -> Any:
    """The result of a piece that may kill its worker, in a process of its own."""
    with _executor("processes", 1) as executor:
        try:
            return executor.submit(guarded, function, piece).result()
        except BrokenProcessPool:
            return Failed(KILLED)


def guarded(function: Callable[[Any], Any], piece: Any) -> Any:
    """The result of a piece of work, or `Failed`; raises `OSError` as it is."""
    try:
        return function(piece)
    except OSError:
        raise
    except (UserError, WorkError) as error:
        return Failed(str(error))
    except (
        Exception
    ) as error:  # a fault of this program or a library's: told of, and the rest goes on
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Failed(f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})")


def _executor(kind: str, workers: int) -> Executor:
    if kind == "threads":
        return ThreadPoolExecutor(workers)
    # Not forked: libraries with threads do not survive it.
    return ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
    )


def _begin(parent: int) -> None:
    """Ctrl-C reaches every process of a terminal, and the first alone says what is to end; killed, it says nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _stop(executor: Executor) -> None:
    """Ends the workers without waiting for what they do."""
    for process in list((getattr(executor, "_processes", None) or {}).values()):
        process.terminate()
