"""The place of a run folder on the disk, the room it needs, and its lock."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pathlib
import shutil
import tempfile

from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError
from bvjax.files import cannot_write
from bvjax.media.video_frames import location
from bvjax.runs.run_settings import Settings

PREFIX_VIDEO = "given.mkv"  # the frames of the video that the run continues
BRANCH = "branch.json"  # which run it is a branch of
SPARE_BYTES = 64 << 20  # left free beyond what the run itself needs

# What a crash before config.json is written can leave.
_PARTIAL_FILES = {"latents", "image.png", PREFIX_VIDEO, BRANCH, "story.json"}


def check_place(path: pathlib.Path, settings: Settings, num_chunks: int) -> pathlib.Path:
    """The folder, there already, in which a run folder can be made, or which can become one.

    Raises `UserError` when it cannot be.
    """
    location(path)  # refuses an address
    if path.exists() and not path.is_dir():
        raise UserError(f"the output folder {path} is a file; choose a new `out` folder")
    if path.exists() and any(not _is_partial(p.name) for p in path.iterdir()):
        raise UserError(f"the output folder {path} is not empty; choose a new `out` folder")
    model = settings.model
    grid = ChunkGrid.of(model, num_chunks)
    check_space(path, required_bytes(settings, grid))
    return _existing(path)


def _is_partial(name: str) -> bool:
    return name in _PARTIAL_FILES or (name.startswith(".") and name.endswith(".tmp"))


def required_bytes(settings: Settings, grid: ChunkGrid) -> int:
    """Generous estimate of what a run writes: latents, conditions, video and report."""
    model, (h, w) = settings.model, grid.latent_size
    latents = (1 + grid.num_chunks * grid.window_latents) * h * w * model.vae.z_dim * 4
    conditions = (grid.num_chunks + 1) * (model.text.max_length + 1) * model.text.dim * 4
    pixels = grid.num_frames * model.chunk.height * model.chunk.width * settings.scale**2
    prefix = 0  # its frames as they are: noise does not get smaller without loss
    if settings.video_chunks:
        count = dataclasses.replace(grid, num_chunks=settings.video_chunks).num_frames
        prefix = count * model.chunk.height * model.chunk.width * 3
    # A busy H.264 pixel is under half a byte.
    return latents + conditions + pixels // 2 + prefix + (4 << 20)


def check_space(path: pathlib.Path, needed: int) -> None:
    """Raises `UserError` unless `path` can be written and has `needed` bytes and some to spare."""
    existing = _existing(path)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise cannot_write(path, error) from None
    free = shutil.disk_usage(existing).free
    if free < needed + SPARE_BYTES:
        raise UserError(
            f"not enough space for {path}: the run needs {(needed + SPARE_BYTES) / 1e6:.0f} MB and "
            f"{free / 1e6:.0f} MB are free"
        )


def _existing(path: pathlib.Path) -> pathlib.Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def lock(path: pathlib.Path) -> int:
    """An exclusive lock that the system gives back even after kill -9."""
    try:
        handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise UserError(f"another process works on the run {path}; wait for its end") from None
    return handle
