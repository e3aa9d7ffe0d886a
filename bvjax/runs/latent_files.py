"""latents/ of a run folder: a file per chunk, done once its hash stands beside it."""

from __future__ import annotations

import hashlib
import pathlib
import re

import numpy as np
from jaxtyping import Float

from bvjax.array_files import read_npy
from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError, WorkError
from bvjax.files import npy_bytes, parse_json, write_atomic, write_json
from bvjax.finite import is_finite
from bvjax.runs.finished import chunk_name

DAMAGED = (OSError, UserError)  # what `read` raises for a file that is damaged

_CHUNK = re.compile(r"chunk_([0-9]{2,9})\.(npy|json)")


def file_of(folder: pathlib.Path, chunk_id: int) -> pathlib.Path:
    """The path of a chunk's latents in the run folder `folder`."""
    return folder / "latents" / f"chunk_{chunk_id:02d}.npy"


def id_of(path: pathlib.Path) -> int:
    """The id of the chunk that a file of `all_files` belongs to."""
    number = _CHUNK.fullmatch(path.name)
    assert number is not None
    return int(number[1])


def all_files(folder: pathlib.Path, from_id: int = 0) -> list[pathlib.Path]:
    """The files of the chunks from `from_id` on, whole or not, the last first."""
    numbered = []
    for path in (folder / "latents").glob("chunk_*.*"):
        number = _CHUNK.fullmatch(path.name)
        if number and int(number[1]) >= from_id:
            numbered.append((int(number[1]), path))
    return [path for _, path in sorted(numbered, reverse=True)]


def write(path: pathlib.Path, latents: Float[np.ndarray, "l h w z"], number: int) -> None:
    """Writes chunk `number` whole, then its hash.

    Raises `WorkError` when it is not finite: nothing is written.
    """
    if not is_finite(latents):
        raise WorkError(f"the latents of {chunk_name(number)} are not finite; they are not saved")
    content = npy_bytes(np.asarray(latents, np.float32))
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, content)
    write_json(path.with_suffix(".json"), {"sha256": hashlib.sha256(content).hexdigest()})


def read(path: pathlib.Path) -> Float[np.ndarray, "l h w z"]:
    """The latents of a chunk.

    Raises `FileNotFoundError` where it is not done, one of `DAMAGED` where it is damaged.
    """
    hash_file = path.with_suffix(".json")
    expected = parse_json(hash_file.read_bytes(), hash_file.name)
    content = path.read_bytes()
    if expected != {"sha256": hashlib.sha256(content).hexdigest()}:
        raise UserError(f"its content does not match its hash in {hash_file.name}")
    return read_npy(content, path.name)


def check(
    path: pathlib.Path, latents: np.ndarray, chunk_id: int, grid: ChunkGrid, z_dim: int
) -> None:
    """Raises `UserError` for latents that are not finite, or of another run than one of `grid`."""
    shape = (grid.piece_latents(chunk_id), *grid.latent_size, z_dim)
    if latents.shape != shape or latents.dtype != np.float32:
        raise UserError(
            f"{path} is {list(latents.shape)} {latents.dtype}; this run's is "
            f"{list(shape)} float32: it is of another run, or config.json has been changed"
        )
    if not is_finite(latents):
        number = grid.number_of(chunk_id)
        raise UserError(
            f"{chunk_name(number)} of {path.parents[1]} is not finite ({path.name}): make it again "
            f"with redo, `from_chunk` {max(number, 1)}"
        )
