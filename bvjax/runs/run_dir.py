"""A run folder: what a video was made from, and every chunk on disk before the next is finished.

  config.json      model, overrides, seed, scale, weights and their hash
  story.json       title and the caption of each chunk (readable as a story again)
  versions.json    software that began the run
  image.png        the first image, if one was given, in the size that was used
  given.mkv        the frames of a video that were given, in the size that was used, without loss
  conditions.npz   encoded captions
  latents/         chunk_XX.npy (float32, XX = chunk id, 00 = guidance latent), chunk_XX.json (hash)
  video.mp4 report.json report.png
  archive/NNN/     what `redo` replaced

Files are written beside their place and renamed, so a name never stands for half a file; video.mp4
grows in place and report.json, written last, says that it is whole.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import io
import json
import os
import pathlib
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image
from absl import logging
from jaxtyping import Float, UInt8

from bvjax.array_files import read_npy
from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError, WorkError
from bvjax.files import cannot_write, npy_bytes, npz_bytes, parse_json, write_atomic
from bvjax.finite import is_finite
from bvjax.generate.conditions import Conditions
from bvjax.media.source_video import Frame, read_copy, write_copy
from bvjax.media.video_frames import location
from bvjax.plain_text import whole_number
from bvjax.runs.finished import chunk_name
from bvjax.runs.run_settings import (
    Settings,
    as_json,
    differences,
    listed,
    read_settings,
    read_story,
)
from bvjax.runs.stored_arrays import read_conditions, read_picture

GIVEN = "given.mkv"
SPARE_BYTES = 64 << 20  # left free beyond what the run itself needs

_CHUNK = re.compile(r"chunk_([0-9]{2,9})\.(npy|json)")
_DAMAGED = (OSError, UserError)  # what reading a damaged chunk raises
_BEGUN = {"latents", "image.png", GIVEN, "story.json"}  # what a crash before config.json can leave
_FILES = (
    "story.json", "versions.json", "image.png", GIVEN, "conditions.npz", "video.mp4", "report.json",
    "report.png",
)  # fmt: skip


class RunDir:
    """An open run folder, locked against a second process until it is closed."""

    def __init__(self, path: pathlib.Path, settings: Settings, captions: Sequence[str], title: str):
        self.path, self.settings, self.title = path, settings, title
        self.captions = tuple(captions)
        self.grid = ChunkGrid.of(settings.model, len(self.captions))
        self._told: set[pathlib.Path] = set()  # damaged files that were warned of
        self._lock: int | None = _lock(path)

    @classmethod
    def create(
        cls,
        path: str | pathlib.Path,
        settings: Settings,
        captions: Sequence[str],
        title: str = "",
        image: UInt8[np.ndarray, "h w 3"] | None = None,
        video: Iterable[Frame] | None = None,
    ) -> RunDir:
        """Begin a run in a new or empty folder, or go on with the very same run.

        `video` are the frames that `settings.video_sha256` tells of; a run that goes on has them.

        Raises `UserError` for a folder that holds something else, is read-only or has too little
        space.
        """
        path = pathlib.Path(path)
        if (path / "config.json").exists():
            run = cls.open(path)
            try:
                run._check_same(settings, captions, image)
                check_space(path, required_bytes(settings, run.grid))
                if run.settings.scale != settings.scale:
                    return run._changed(dataclasses.replace(run.settings, scale=settings.scale))
            except BaseException:
                run.close()
                raise
            return run
        check_place(path, settings, len(captions))
        try:
            (path / "latents").mkdir(parents=True, exist_ok=True)
            if image is not None:
                buffer = io.BytesIO()
                PIL.Image.fromarray(image).save(buffer, "PNG")
                write_atomic(path / "image.png", buffer.getvalue())
            if video is not None:
                write_copy(path / GIVEN, video, settings.model.chunk.fps)
            _write_json(path / "story.json", {"title": title, "captions": list(captions)})
            _write_json(path / "config.json", as_json(settings))  # last: it makes the folder a run
        except OSError as error:
            raise cannot_write(path, error) from None
        return cls(path, settings, captions, title)

    @classmethod
    def open(cls, path: str | pathlib.Path) -> RunDir:
        """Open an existing run; raises `UserError` when the folder is not one or is damaged."""
        path = pathlib.Path(path)
        if not (path / "config.json").is_file():
            raise UserError(f"{path} is not a run folder: it has no config.json")
        try:
            _check_kinds(path)
            captions, title = read_story(path / "story.json")
            settings = read_settings(path / "config.json", len(captions))
        except UserError as error:
            raise UserError(f"the run folder {path} is damaged: {error}") from None
        return cls(path, settings, captions, title)

    @staticmethod
    def scale_of(path: str | pathlib.Path) -> int | None:
        """The scale of the run in a folder; None when there is none.  Raises `UserError`."""
        path = pathlib.Path(path)
        if not (path / "config.json").exists():
            return None
        with RunDir.open(path) as run:
            return run.settings.scale

    def close(self) -> None:
        """Lets other processes use the folder; may be called twice."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def number_of(self, chunk_id: int) -> int:
        """The number by which people call a chunk: 1, 2, ..., and 0 for the guidance frame."""
        return self.grid.number_of(chunk_id)

    # ---- pieces -------------------------------------------------------------------------------
    @property
    def video(self) -> pathlib.Path:
        return self.path / "video.mp4"

    def image(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """The first image as it was used; raises `UserError` where that has been damaged."""
        path, chunk = self.path / "image.png", self.settings.model.chunk
        return read_picture(path, chunk.height, chunk.width) if path.exists() else None

    def video_frames(self) -> Iterator[Frame]:
        """The frames that were given, as they were used; raises `UserError` for a damaged copy."""
        path, chunk = self.path / GIVEN, self.settings.model.chunk
        for frame in read_copy(path):
            if frame.shape != (chunk.height, chunk.width, 3):
                raise UserError(
                    f"{path} is {frame.shape[1]}x{frame.shape[0]}; the run's videos are "
                    f"{chunk.width}x{chunk.height}"
                )
            yield frame

    def latent_ids(self) -> list[int]:
        """Ids of all latents that the finished run has, the guidance latent's included."""
        return list(self.grid.piece_ids)

    def save_latents(self, chunk_id: int, latents: Float[np.ndarray, "l h w z"]) -> None:
        """Write one chunk; it counts as done once its hash stands beside it.

        Raises `WorkError` when it is not finite: nothing is written.
        """
        if not is_finite(latents):
            whose = chunk_name(self.number_of(chunk_id))
            raise WorkError(f"the latents of {whose} are not finite; they are not saved")
        content = npy_bytes(np.asarray(latents, np.float32))
        path = self._latents(chunk_id)
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, content)
        _write_json(path.with_suffix(".json"), {"sha256": hashlib.sha256(content).hexdigest()})

    def load_latents(
        self, ids: Sequence[int], *, tidy: bool = True
    ) -> dict[int, Float[np.ndarray, "l h w z"]]:
        """The chunks that are done and intact, in order, up to the first that is not.

        With `tidy`, chunks after a damaged or missing one go to the archive, because they were made
        from it; without, the folder stays as it is.

        Raises `UserError` for one that is intact but not finite or not of this run: whoever wrote it
        meant it so.
        """
        done = {}
        for chunk_id in ids:
            path = self._latents(chunk_id)
            try:
                done[chunk_id] = self._read_latents(chunk_id)
            except FileNotFoundError:
                break
            except _DAMAGED as error:
                if path not in self._told:
                    why = getattr(error, "strerror", None) or error
                    logging.warning("%s is damaged: %s", path, why)
                self._told.add(path)
                break
        for chunk_id, latents in done.items():
            self._check_latents(chunk_id, latents)
        if tidy and len(done) < len(ids):
            late = self._latents_from(ids[len(done)])
            if late:
                archive = self._new_archive()
                self._move(late, archive)
                number = self.number_of(ids[len(done)])
                logging.warning("chunks from %d on are made again; they are in %s", number, archive)
        return done

    def check_latents(self, ids: Iterable[int]) -> None:
        """Raises `UserError` as `load_latents`; passes over chunks that are missing or damaged."""
        for chunk_id in ids:
            try:
                latents = self._read_latents(chunk_id)
            except _DAMAGED:
                continue
            self._check_latents(chunk_id, latents)

    def save_conditions(self, conditions: Conditions) -> None:
        """Keep the encoded captions, marked with the captions they belong to."""
        arrays = {f.name: getattr(conditions, f.name) for f in dataclasses.fields(conditions)}
        content = npz_bytes(captions=np.array(self.captions), **arrays)
        write_atomic(self.path / "conditions.npz", content)

    def load_conditions(self) -> tuple[tuple[str, ...], Conditions] | None:
        """Encoded captions with the captions they belong to; None when there are none to be used."""
        try:
            return read_conditions(self.path / "conditions.npz", self.settings.model)
        except FileNotFoundError:
            return None
        except UserError as error:
            logging.warning("%s: the captions are encoded again", error)
            return None

    def save_bytes(self, name: str, content: bytes) -> None:
        """Write `name`, whole or not at all."""
        write_atomic(self.path / name, content)

    def save_json(self, name: str, content: Any) -> None:
        """Write `name`, whole or not at all."""
        _write_json(self.path / name, content)

    def replace_captions(
        self, captions: Sequence[str], from_id: int, seed: int | None = None
    ) -> RunDir:
        """Moves chunks from id `from_id` on to a new archive folder; opens the run as it is then.

        Args:
            captions: of all chunks, those before `from_id` as they were.
            seed: of the chunks from `from_id` on; None leaves theirs.
        """
        settings = self.settings if seed is None else self.settings.rerolled(from_id, seed)
        archive = self._new_archive()
        try:
            for name in ("story.json", "config.json"):
                shutil.copy2(self.path / name, archive / name)
            names = ("report.json", "report.png", "video.mp4")
            made = [self.path / name for name in names if (self.path / name).exists()]
            self._move([*made, *self._latents_from(from_id)], archive)
            _write_json(self.path / "story.json", {"title": self.title, "captions": list(captions)})
        except OSError as error:
            raise cannot_write(self.path, error) from None
        logging.info("what was made of the chunks from there on is in %s", archive)
        return self._changed(settings)

    # ---- inside -------------------------------------------------------------------------------
    def _latents(self, chunk_id: int) -> pathlib.Path:
        return self.path / "latents" / f"chunk_{chunk_id:02d}.npy"

    def _read_latents(self, chunk_id: int) -> Float[np.ndarray, "l h w z"]:
        path = self._latents(chunk_id)
        beside = path.with_suffix(".json")
        expected = parse_json(beside.read_bytes(), beside.name)
        content = path.read_bytes()
        if expected != {"sha256": hashlib.sha256(content).hexdigest()}:
            raise UserError(f"its content does not match its hash in {beside.name}")
        return read_npy(content, path.name)

    def _check_latents(self, chunk_id: int, latents: np.ndarray) -> None:
        """Raises `UserError` for latents that belong to another run."""
        model, grid, path = self.settings.model, self.grid, self._latents(chunk_id)
        shape = (grid.piece_latents(chunk_id), *grid.latent_size, model.vae.z_dim)
        if latents.shape != shape or latents.dtype != np.float32:
            raise UserError(
                f"{path} is {list(latents.shape)} {latents.dtype}; this run's is "
                f"{list(shape)} float32: it is of another run, or config.json has been changed"
            )
        if not is_finite(latents):
            number = self.number_of(chunk_id)
            raise UserError(
                f"{chunk_name(number)} of {self.path} is not finite ({path.name}): make it again with redo, "
                f"`from_chunk` {max(number, 1)}"
            )

    def _latents_from(self, from_id: int) -> list[pathlib.Path]:
        """The files of the chunks from `from_id` on, whole or not, the last first."""
        found = []
        for path in (self.path / "latents").glob("chunk_*.*"):
            number = _CHUNK.fullmatch(path.name)
            if number and int(number[1]) >= from_id:
                found.append((int(number[1]), path))
        return [path for _, path in sorted(found, reverse=True)]

    def _new_archive(self) -> pathlib.Path:
        """Makes a folder numbered one above the largest."""
        folder = self.path / "archive"
        try:
            folder.mkdir(exist_ok=True)
            there = [whole_number(path.name) for path in folder.iterdir()]
            number = 1 + max([n for n in there if n is not None], default=0)
            archive = folder / f"{number:03d}"
            archive.mkdir()
        except OSError as error:
            raise cannot_write(folder, error) from None
        return archive

    def _move(self, paths: Sequence[pathlib.Path], archive: pathlib.Path) -> None:
        for path in paths:
            target = archive / path.relative_to(self.path)
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)

    def _changed(self, settings: Settings) -> RunDir:
        """The run with other settings, written and opened again."""
        if settings != self.settings:
            _write_json(self.path / "config.json", as_json(settings))
        self.close()
        return RunDir.open(self.path)

    def _check_same(
        self, settings: Settings, captions: Sequence[str], image: np.ndarray | None
    ) -> None:
        """Raises `UserError` that names what is not alike, unless this is the very same run."""
        told = differences((self.settings, self.captions), (settings, captions))
        old = self.image()
        if old is None or image is None:
            if old is not image:
                told.append(f"it begins with {'no' if old is None else 'an'} image")
        elif not np.array_equal(old, image):
            told.append("its first image is another")
        if told:
            raise UserError(
                f"{self.path} already holds another run ({listed(told)}); choose a new `out` folder, "
                f"or go on with that run by 'python -m bvjax resume {shlex.quote(str(self.path))}'"
            )


def _check_kinds(path: pathlib.Path) -> None:
    """Raises `UserError` where a folder, a pipe or another thing has the name of a run's file."""
    for folder in (path / "latents", path / "archive"):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
    chunks = (p for p in (path / "latents").glob("chunk_*.*") if _CHUNK.fullmatch(p.name))
    for file in (*(path / name for name in _FILES), *chunks):
        if file.exists() and not file.is_file():
            raise UserError(f"{file} is not a file")


def check_place(path: pathlib.Path, settings: Settings, num_chunks: int) -> pathlib.Path:
    """The folder, there already, in which a run folder can be made, or which can become one.

    Raises `UserError` when it cannot be.
    """
    location(path)  # refuses an address
    if path.exists() and not path.is_dir():
        raise UserError(f"the output folder {path} is a file; choose a new `out` folder")
    if path.exists() and any(not _is_begun(p.name) for p in path.iterdir()):
        raise UserError(f"the output folder {path} is not empty; choose a new `out` folder")
    model = settings.model
    grid = ChunkGrid.of(model, num_chunks)
    check_space(path, required_bytes(settings, grid))
    return _existing(path)


def _is_begun(name: str) -> bool:
    return name in _BEGUN or (name.startswith(".") and name.endswith(".tmp"))


def required_bytes(settings: Settings, grid: ChunkGrid) -> int:
    """Generous estimate of what a run writes: latents, conditions, video and report."""
    model, (h, w) = settings.model, grid.latent_size
    latents = (1 + grid.num_chunks * grid.window_latents) * h * w * model.vae.z_dim * 4
    conditions = (grid.num_chunks + 1) * (model.text.max_length + 1) * model.text.dim * 4
    pixels = grid.num_frames * model.chunk.height * model.chunk.width * settings.scale**2
    given = 0  # as they are: noise does not get smaller without loss
    if settings.video_chunks:
        count = dataclasses.replace(grid, num_chunks=settings.video_chunks).num_frames
        given = count * model.chunk.height * model.chunk.width * 3
    # A busy H.264 pixel is under half a byte.
    return latents + conditions + pixels // 2 + given + (4 << 20)


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


def _lock(path: pathlib.Path) -> int:
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


def _write_json(path: pathlib.Path, content: Any) -> None:
    write_atomic(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
