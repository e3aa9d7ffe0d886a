"""A run folder: what a video was made from, and every chunk on disk before the next one begins.

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
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
from absl import logging
from jaxtyping import Float, UInt8

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.files import npy_bytes, npz_bytes, parse_json, read_json_object, write_atomic
from bvjax.generate.conditions import Conditions
from bvjax.generate.source_video import Frame, read_copy, write_copy
from bvjax.overrides import from_dict, to_dict
from bvjax.plain_text import whole_number

GIVEN = "given.mkv"
SPARE_BYTES = 64 << 20  # left free beyond what the run itself needs

_BEGUN = {"latents", "image.png", GIVEN, "story.json"}  # what a crash before config.json can leave


@dataclasses.dataclass(frozen=True)
class Settings:
    """What, besides story and image, decides the video (`weights` is only where to look)."""

    model: ModelConfig
    seed: int
    scale: int
    weights: str
    weights_sha256: str
    overrides: tuple[str, ...] = ()
    video_chunks: int = 0  # chunks 1 to `video_chunks` are given by a video
    video_sha256: str = ""  # of its frames in `GIVEN`


class RunDir:
    """An open run folder, locked against a second process until it is closed."""

    def __init__(self, path: pathlib.Path, settings: Settings, captions: Sequence[str], title: str):
        self.path, self.settings, self.title = path, settings, title
        self.captions = tuple(captions)
        self.grid = ChunkGrid(settings.model.chunk, len(self.captions), settings.model.dit.patch)
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

        Raises `UserError` for a folder that holds something else, is read-only or full.
        """
        path = pathlib.Path(path)
        grid = ChunkGrid(settings.model.chunk, len(captions), settings.model.dit.patch)
        if (path / "config.json").exists():
            run = cls.open(path)
            if run._is(settings, captions, image):
                run._check_space()
                return run
            run.close()
            raise UserError(
                f"{path} already holds another run; choose a new --out folder, or go on with that "
                f"run by 'python -m bvjax resume {path}'"
            )
        if path.exists() and not path.is_dir():
            raise UserError(f"the output folder {path} is a file; choose a new --out folder")
        if path.exists() and {p.name for p in path.iterdir()} - _BEGUN:
            raise UserError(f"the output folder {path} is not empty; choose a new --out folder")
        check_space(path, required_bytes(settings, grid))
        try:
            (path / "latents").mkdir(parents=True, exist_ok=True)
            if image is not None:
                buffer = io.BytesIO()
                PIL.Image.fromarray(image).save(buffer, "PNG")
                write_atomic(path / "image.png", buffer.getvalue())
            if video is not None:
                write_copy(path / GIVEN, video, settings.model.chunk.fps)
            _write_json(path / "story.json", {"title": title, "captions": list(captions)})
            stored = dataclasses.asdict(settings) | {"model": to_dict(settings.model)}
            _write_json(path / "config.json", stored)  # last: it makes the folder a run
        except OSError as error:
            raise _cannot_write(path, error) from None
        return cls(path, settings, captions, title)

    @classmethod
    def open(cls, path: str | pathlib.Path) -> RunDir:
        """Open an existing run; raises `UserError` when the folder is not one or is damaged."""
        path = pathlib.Path(path)
        if not (path / "config.json").is_file():
            raise UserError(f"{path} is not a run folder: it has no config.json")
        try:
            stored = read_json_object(path / "config.json")
            story = read_json_object(path / "story.json")
            stored["model"] = from_dict(ModelConfig, stored["model"])
            stored["overrides"] = tuple(stored["overrides"])
            settings = Settings(**stored)
            captions, title = story["captions"], story["title"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"the run folder {path} is damaged: {error}") from None
        return cls(path, settings, captions, title)

    def close(self) -> None:
        """Lets other processes use the folder; may be called twice."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- pieces -------------------------------------------------------------------------------
    @property
    def video(self) -> pathlib.Path:
        return self.path / "video.mp4"

    def image(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """The first image as it was used."""
        path = self.path / "image.png"
        return np.asarray(PIL.Image.open(path).convert("RGB")) if path.exists() else None

    def video_frames(self) -> Iterator[Frame]:
        """The frames that were given, as they were used; raises `UserError` for a damaged copy."""
        return read_copy(self.path / GIVEN)

    def save_latents(self, chunk_id: int, latents: Float[np.ndarray, "l h w z"]) -> None:
        """Write one chunk; it counts as done once its hash stands beside it."""
        content = npy_bytes(np.asarray(latents, np.float32))
        path = self._latents(chunk_id)
        write_atomic(path, content)
        _write_json(path.with_suffix(".json"), {"sha256": hashlib.sha256(content).hexdigest()})

    def load_latents(self, ids: Sequence[int]) -> dict[int, Float[np.ndarray, "l h w z"]]:
        """The chunks that are done and intact, in order, up to the first that is not.

        Chunks after a damaged or missing one go to the archive, because they were made from it.
        """
        done = {}
        for chunk_id in ids:
            try:
                done[chunk_id] = self._read_latents(chunk_id)
            except FileNotFoundError:
                break
            except (OSError, ValueError, KeyError, TypeError) as error:
                path = self._latents(chunk_id)
                logging.warning("%s is damaged (%s): made again from there on", path, error)
                break
        if len(done) < len(ids):
            self._archive_latents(ids[len(done)])
        return done

    def save_conditions(self, conditions: Conditions) -> None:
        """Keep the encoded captions, marked with the captions they belong to."""
        arrays = {f.name: getattr(conditions, f.name) for f in dataclasses.fields(conditions)}
        content = npz_bytes(captions=np.array(self.captions), **arrays)
        write_atomic(self.path / "conditions.npz", content)

    def load_conditions(self) -> tuple[tuple[str, ...], Conditions] | None:
        """Encoded captions with the captions they belong to; None when there are none."""
        try:
            with np.load(self.path / "conditions.npz") as stored:
                arrays = dict(stored)
            captions = tuple(str(caption) for caption in arrays.pop("captions"))
            return captions, Conditions(**arrays)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None

    def save_bytes(self, name: str, content: bytes) -> None:
        """Write `name`, whole or not at all."""
        write_atomic(self.path / name, content)

    def save_json(self, name: str, content: Any) -> None:
        """Write `name`, whole or not at all."""
        _write_json(self.path / name, content)

    def replace_captions(self, edits: Mapping[int, str], from_id: int) -> RunDir:
        """Moves chunks from id `from_id` on to the archive and opens the run with edited captions.

        `edits` maps chunk numbers (1, 2, ...) to new captions.
        """
        archive = self._archive_latents(from_id)
        archive.mkdir(parents=True, exist_ok=True)
        for name in ("report.json", "report.png", "video.mp4"):
            if (self.path / name).exists():
                os.replace(self.path / name, archive / name)
        shutil.copy2(self.path / "story.json", archive / "story.json")
        captions = [edits.get(n, caption) for n, caption in enumerate(self.captions, start=1)]
        _write_json(self.path / "story.json", {"title": self.title, "captions": captions})
        self.close()
        return RunDir.open(self.path)

    # ---- inside -------------------------------------------------------------------------------
    def _latents(self, chunk_id: int) -> pathlib.Path:
        return self.path / "latents" / f"chunk_{chunk_id:02d}.npy"

    def _read_latents(self, chunk_id: int) -> Float[np.ndarray, "l h w z"]:
        path = self._latents(chunk_id)
        beside = path.with_suffix(".json")
        expected = parse_json(beside.read_bytes(), str(beside))["sha256"]
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != expected:
            raise ValueError("its content does not match its hash")
        return np.load(io.BytesIO(content))

    def _new_archive(self) -> pathlib.Path:
        """A folder that is not there yet, numbered one above the largest that was ever there."""
        folder = self.path / "archive"
        there = [whole_number(p.name) for p in folder.iterdir()] if folder.is_dir() else []
        return folder / f"{1 + max([n for n in there if n is not None], default=0):03d}"

    def _archive_latents(self, from_id: int) -> pathlib.Path:
        """Moves the chunks from `from_id` on, whole or not, to a new archive folder."""
        archive = self._new_archive()
        for path in sorted((self.path / "latents").glob("chunk_*.*")):
            if int(path.stem.removeprefix("chunk_")) >= from_id:
                (archive / "latents").mkdir(parents=True, exist_ok=True)
                os.replace(path, archive / "latents" / path.name)
        return archive

    def _is(self, settings: Settings, captions: Sequence[str], image: np.ndarray | None) -> bool:
        mine, theirs = (
            dataclasses.replace(s, weights="", scale=0, overrides=())
            for s in (self.settings, settings)
        )
        old = self.image()
        same_image = (
            np.array_equal(old, image) if old is not None and image is not None else (old is image)
        )
        return mine == theirs and self.captions == tuple(captions) and same_image

    def _check_space(self) -> None:
        check_space(self.path, required_bytes(self.settings, self.grid))


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
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from None
    free = shutil.disk_usage(existing).free
    if free < needed + SPARE_BYTES:
        raise UserError(
            f"not enough space for {path}: the run needs {(needed + SPARE_BYTES) / 1e6:.0f} MB and "
            f"{free / 1e6:.0f} MB are free"
        )


def _lock(path: pathlib.Path) -> int:
    """An exclusive lock that the system gives back even after kill -9."""
    try:
        handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _cannot_write(path, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise UserError(f"another process works on the run {path}; wait for its end") from None
    return handle


def _write_json(path: pathlib.Path, content: Any) -> None:
    write_atomic(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _cannot_write(path: pathlib.Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {path}: {error.strerror or error}")
