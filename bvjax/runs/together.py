"""A run that several processes make together: process 0 has its folder, the others a copy that is deleted in the end.

What a run's programs are given must be the same in every process, so the folder is made by process 0, with the text
states of its captions, and handed to the others as it is: a run goes on from the same chunks everywhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib
import tarfile
import tempfile
from collections.abc import Callable, Iterator

import jax

from bvjax.distributed import exchange
from bvjax.distributed.start import is_main
from bvjax.errors import UserError
from bvjax.loading.bundle import Bundle, LazyParams
from bvjax.runs.captions import run_conditions
from bvjax.runs.execute import execute, is_finished
from bvjax.runs.place import PREFIX_VIDEO
from bvjax.runs.run_dir import RunDir
from bvjax.sharding import ONE_DEVICE

# Of a run folder what decides its chunks; process 0 alone has video and report.
FILES = ("config.json", "story.json", "conditions.npz", "image.png", PREFIX_VIDEO, "latents")


@contextlib.contextmanager
def everywhere(make: Callable[[], RunDir], bundle: Bundle) -> Iterator[RunDir]:
    """The run that `make` makes or opens, in every process.

    Args:
        make: called in process 0 alone.
        bundle: its text encoder runs there too, on one device.

    Raises:
        UserError: what `make` raises, in all processes.
    """
    if jax.process_count() == 1:
        with make() as run:
            yield run
        return
    made: list[tuple[RunDir, bytes]] = []

    def begin() -> None:
        run = make()
        try:
            made.append((run, _content(run, bundle)))
        except BaseException:
            run.close()
            raise

    exchange.on_main(begin)
    content = exchange.broadcast_bytes(made[0][1] if made else b"")
    if made:
        with made[0][0] as run:
            yield run
        return
    with tempfile.TemporaryDirectory(prefix="bvjax-") as folder:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder, filter="data")
        with RunDir.open(pathlib.Path(folder)) as run:
            yield run


def finished(run: RunDir) -> bool:
    """Returns whether nothing is left to do, as process 0 sees it."""
    return exchange.on_main(lambda: is_finished(run))


def help_out(run: RunDir, bundle: Bundle, again: bool = False) -> None:
    """Does the part of a process other than the first; `again` where process 0 goes through a finished run too."""
    assert not is_main()
    if not finished(run) or again:
        for _ in execute(run, bundle, only_chunks=True):
            pass


def _content(run: RunDir, bundle: Bundle) -> bytes:
    """The files that decide the run's chunks, the text states among them."""
    if run.settings.model.memory.offload != "none":
        raise UserError(
            f"memory.offload is {run.settings.model.memory.offload!r}; it must be none where several processes make a "
            "video together"
        )
    alone = dataclasses.replace(
        bundle,
        layout=ONE_DEVICE,
        params=LazyParams(bundle.folder, bundle.model, ONE_DEVICE),
    )
    conditions, new = run_conditions(run, alone, run.captions)
    if new:
        run.save_conditions(conditions)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in FILES:
            if (run.path / name).exists():
                archive.add(run.path / name, name)
    return buffer.getvalue()
