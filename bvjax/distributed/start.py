"""The beginning and the end of a run of several processes."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping

import jax
from absl import logging

from bvjax import console
from bvjax.distributed.cluster import Cluster, Options, find
from bvjax.distributed.exchange import barrier
from bvjax.errors import UserError

RESTART = 42  # exit code: the state is saved, or a device hung; the same command goes on
INITIALIZATION = 300  # seconds in which all processes must have come


def start(options: Options, environ: Mapping[str, str] = os.environ) -> Cluster | None:
    """Connects this process with the others of its run, see `cluster.find`; to be called before JAX is used.

    Raises:
        UserError: the options do not belong together, or the others do not come.
    """
    cluster = find(options, environ)
    if cluster is None:
        return None
    # The handler of SIGTERM that the service would install hides the notice from `StopRequest`, which hands it to all.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Two programs under way at once would send over the same sockets, in an order that is not the same everywhere.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(**cluster.arguments(), initialization_timeout=INITIALIZATION)
    except (RuntimeError, ValueError, TypeError) as error:
        if "before any JAX" in str(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the processes do not come together ({cluster.found_in}): {reason}"
        ) from None
    if not is_main():
        logging.set_verbosity(logging.WARNING)
    logging.info(
        "%d processes (%s), %d devices, %d of them here",
        jax.process_count(),
        cluster.found_in,
        jax.device_count(),
        jax.local_device_count(),
    )
    return cluster


def is_main() -> bool:
    """Returns whether this is the process that writes what all have made."""
    return jax.process_index() == 0


def run(command: Callable[[], int], options: Options) -> int:
    """Starts, runs a command in every process and ends all of them with its exit code.

    A process that fails alone does not wait for the others, which wait for it: they lose their connection.
    """
    cluster = start(options)
    if cluster is None or jax.process_count() == 1:
        return command()
    try:
        code = console.run(command, "error")
    except BaseException:
        traceback.print_exc()
        code = 1
    if code == 0:
        barrier("end")  # what process 0 still writes is written
        jax.distributed.shutdown()
        return code
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    _leave(code)
    return code


def _leave(code: int) -> None:
    """Ends this process: others that end in the same way get a few seconds to say why, process 0 leaves last."""
    if is_main():
        time.sleep(2.0)
    os._exit(code)


@contextlib.contextmanager
def quiet_elsewhere() -> Iterator[None]:
    """Lets process 0 alone print what is printed inside."""
    if is_main():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
