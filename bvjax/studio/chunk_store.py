"""Pieces of video, stills and facts of finished chunks, kept by what the chunks are made of.

The key of a chunk is a hash over the latents of all pieces up to it, so branches share what they share, and a chunk that
is made again has another.  It is a cache: what is missing is made again from the run's video.mp4, or when it is resumed.
"""

from __future__ import annotations

import hashlib
import itertools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError
from bvjax.files import read_json_object, write_atomic, write_json
from bvjax.media.video_frames import timed_frames
from bvjax.media.video_io import jpeg
from bvjax.runs.latent_files import file_of
from bvjax.runs.run_settings import Settings
from bvjax.studio import fragments

_VERSION = b"pieces 1"
_MOST_HASH = 4096  # bytes of the file beside a chunk's latents


def piece_frames(grid: ChunkGrid, number: int) -> tuple[int, int]:
    """[start, stop) of the frames of piece `number` in the video; the first piece begins at 0."""
    start, stop = grid.frame_range(grid.id_of(number))
    first = grid.number_of(grid.piece_ids[0])
    return (0 if number == first else start), stop


class ChunkStore:
    """A folder of files KEY.mp4, KEY.jpg and KEY.json."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    def keys(self, run: pathlib.Path, settings: Settings, grid: ChunkGrid) -> dict[int, str]:
        """{number: key} of the pieces of a run that are there, up to the first that is not; 0 is the first frame."""
        digest = hashlib.sha256(_VERSION + settings.weights_sha256.encode())
        digest.update(repr((settings.model.chunk, settings.scale)).encode())
        keys: dict[int, str] = {}
        for piece_id in grid.piece_ids:
            path = file_of(run, piece_id)
            try:
                with open(path.with_suffix(".json"), "rb") as file:
                    content = file.read(_MOST_HASH)
                if not path.is_file():
                    break
            except OSError:
                break
            digest.update(hashlib.sha256(content).digest())
            keys[grid.number_of(piece_id)] = digest.hexdigest()[:40]
        return keys

    def piece(self, key: str) -> bytes | None:
        """The piece of video; None where it is not kept."""
        return self._read(key, "mp4")

    def still(self, key: str) -> bytes | None:
        """A JPEG of the middle; None where it is not kept."""
        return self._read(key, "jpg")

    def facts(self, key: str) -> dict[str, Any]:
        """The facts told of the chunk when it was made; {} where they are not kept."""
        try:
            return read_json_object(self._path(key, "json"))
        except UserError:
            return {}

    def put(self, key: str, frames: fragments.Frames, fps: int, scale: int) -> bytes:
        """Keeps the frames of a chunk; returns the piece."""
        piece = fragments.encode(frames, fps, scale)
        self._write(key, "jpg", jpeg(frames[len(frames) // 2], scale))
        self._write(key, "mp4", piece)
        return piece

    def put_facts(self, key: str, facts: Mapping[str, Any]) -> None:
        """Keeps facts besides those that are kept already."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._path(key, "json"), {**self.facts(key), **facts})

    def drop(self, keys: Iterable[str]) -> None:
        """Deletes what is kept of chunks."""
        for key in keys:
            for kind in ("mp4", "jpg", "json"):
                self._path(key, kind).unlink(missing_ok=True)

    def fill(
        self, run: pathlib.Path, settings: Settings, grid: ChunkGrid, keys: Mapping[int, str]
    ) -> None:
        """Makes the pieces that are not kept out of the run's video.mp4, as far as that goes."""
        missing = {n for n, key in keys.items() if not self._path(key, "mp4").is_file()}
        video, chunk = run / "video.mp4", settings.model.chunk
        if not missing or not video.is_file():
            return
        size = (chunk.height * settings.scale, chunk.width * settings.scale)
        try:
            frames = (shown.picture() for shown in timed_frames(video))
            for number, key in sorted(keys.items()):
                start, stop = piece_frames(grid, number)
                # Not more than one chunk of frames is in memory.
                piece = list(itertools.islice(frames, stop - start))
                if len(piece) < stop - start or any(frame.shape[:2] != size for frame in piece):
                    return
                if number in missing:
                    self.put(key, _stack(piece), chunk.fps, 1)
        except UserError:
            return  # a file that is damaged or still being written

    def _path(self, key: str, kind: str) -> pathlib.Path:
        return self._folder / f"{key}.{kind}"

    def _read(self, key: str, kind: str) -> bytes | None:
        try:
            return self._path(key, kind).read_bytes()
        except OSError:
            return None

    def _write(self, key: str, kind: str, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(key, kind), content)


def _stack(frames: list[np.ndarray]) -> fragments.Frames:
    return np.stack(frames)
