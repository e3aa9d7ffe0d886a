"""A run folder: what a video was made from, and every chunk on disk before the next is finished.

  config.json      model, overrides, seed, scale, weights and their hash
  story.json       title and the caption of each chunk (readable as a story again)
  versions.json    software that began the run
  branch.json      of a branch: which run it comes from, and its first chunk of its own
  image.png        the first image, if one was given, in the size that was used
  given.mkv        the frames of a video that were given, in the size that was used, without loss
  conditions.npz   encoded captions
  latents/         chunk_XX.npy (float32, XX = chunk id, 00 = anchor), chunk_XX.json (hash)
  video.mp4 report.json report.png
  preview.jpg      the chunk at work, with `generate --preview`
  archive/NNN/     what `redo` replaced

Files are written beside their place and renamed, so a name never stands for half a file; video.mp4
grows in place and report.json, written last, says that it is whole.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image
from absl import logging
from jaxtyping import Float, UInt8

from bvjax import policies
from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError
from bvjax.files import cannot_write, npz_bytes, write_atomic
from bvjax.generate.conditions import Conditions
from bvjax.media.source_video import Frame, read_copy, write_copy
from bvjax.runs import latent_files
from bvjax.runs.archive import move, new_archive
from bvjax.runs.place import BRANCH, PREFIX_VIDEO, check_place, check_space, lock, required_bytes
from bvjax.runs.run_settings import (
    Settings,
    as_json,
    differences,
    listed,
    read_settings,
    read_story,
)
from bvjax.runs.stored_arrays import read_conditions, read_picture

_FILES = (
    "story.json",
    "versions.json",
    "image.png",
    PREFIX_VIDEO,
    BRANCH,
    "conditions.npz",
    "video.mp4",
    "report.json",
    "report.png",
    "preview.jpg",
)


class RunDir:
    """An open run folder, locked against a second process until it is closed."""

    def __init__(self, path: pathlib.Path, settings: Settings, captions: Sequence[str], title: str):
        self.path, self.settings, self.title = path, settings, title
        self.captions = tuple(captions)
        self.grid = ChunkGrid.of(settings.model, len(self.captions))
        self._warned: set[pathlib.Path] = set()  # damaged files that were warned of
        self._lock: int | None = lock(path)

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
                write_copy(path / PREFIX_VIDEO, video, settings.model.chunk.fps)
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
        """The number by which people call a chunk: 1, 2, ..., and 0 for the anchor."""
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
        path, chunk = self.path / PREFIX_VIDEO, self.settings.model.chunk
        for frame in read_copy(path):
            if frame.shape != (chunk.height, chunk.width, 3):
                raise UserError(
                    f"{path} is {frame.shape[1]}x{frame.shape[0]}; the run's videos are "
                    f"{chunk.width}x{chunk.height}"
                )
            yield frame

    def latent_ids(self) -> list[int]:
        """Ids of all latents that the finished run has, the anchor's included, as they are made."""
        return policies.emission_order(self.settings.model, len(self.captions))

    def save_latents(self, chunk_id: int, latents: Float[np.ndarray, "l h w z"]) -> None:
        """Write one chunk; it counts as done once its hash stands beside it.

        Raises `WorkError` when it is not finite: nothing is written.
        """
        latent_files.write(self._file(chunk_id), latents, self.number_of(chunk_id))

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
            path = self._file(chunk_id)
            try:
                done[chunk_id] = latent_files.read(self._file(chunk_id))
            except FileNotFoundError:
                break
            except latent_files.DAMAGED as error:
                if path not in self._warned:
                    why = getattr(error, "strerror", None) or error
                    logging.warning("%s is damaged: %s", path, why)
                self._warned.add(path)
                break
        for chunk_id, latents in done.items():
            self._check(chunk_id, latents)
        if tidy and len(done) < len(ids):
            later = ids[len(done) :]
            late = latent_files.all_files(self.path, min(later))
            if later != sorted(later):  # what was made before may come after in time
                late = [path for path in late if latent_files.id_of(path) not in done]
            if late:
                archive = new_archive(self.path)
                move(self.path, late, archive)
                number = self.number_of(ids[len(done)])
                logging.warning("chunks from %d on are made again; they are in %s", number, archive)
        return done

    def check_latents(self, ids: Iterable[int]) -> None:
        """Raises `UserError` as `load_latents`; passes over chunks that are missing or damaged."""
        for chunk_id in ids:
            try:
                latents = latent_files.read(self._file(chunk_id))
            except latent_files.DAMAGED:
                continue
            self._check(chunk_id, latents)

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
        self, captions: Sequence[str], from_id: int, settings: Settings | None = None
    ) -> RunDir:
        """Moves chunks from id `from_id` on to a new archive folder; opens the run as it is then.

        Args:
            captions: of all chunks, those before `from_id` as they were.
            settings: of the run from then on; None leaves them.
        """
        archive = new_archive(self.path)
        try:
            for name in ("story.json", "config.json"):
                shutil.copy2(self.path / name, archive / name)
            names = ("report.json", "report.png", "video.mp4")
            outputs = [self.path / name for name in names if (self.path / name).exists()]
            move(self.path, [*outputs, *latent_files.all_files(self.path, from_id)], archive)
            _write_json(self.path / "story.json", {"title": self.title, "captions": list(captions)})
        except OSError as error:
            raise cannot_write(self.path, error) from None
        logging.info("what was made of the chunks from there on is in %s", archive)
        return self._changed(settings or self.settings)

    def rewrite_story(self, captions: Sequence[str], settings: Settings | None = None) -> None:
        """Gives the run other captions for chunks that are not made, more of them or fewer; it stays open.

        Args:
            captions: of all chunks, those that are made as they were.
            settings: from then on; None leaves them.
        """
        settings = (settings or self.settings).limited(len(captions))
        shorter = len(captions) < len(self.captions)
        story = {"title": self.title, "captions": list(captions)}
        try:  # at no time are there settings of chunks that the story does not have
            if not shorter:
                _write_json(self.path / "story.json", story)
            if settings != self.settings:
                _write_json(self.path / "config.json", as_json(settings))
            if shorter:
                _write_json(self.path / "story.json", story)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self.captions, self.settings = tuple(captions), settings
        self.grid = ChunkGrid.of(settings.model, len(captions))

    # ---- inside -------------------------------------------------------------------------------
    def _file(self, chunk_id: int) -> pathlib.Path:
        return latent_files.file_of(self.path, chunk_id)

    def _check(self, chunk_id: int, latents: np.ndarray) -> None:
        z_dim = self.settings.model.vae.z_dim
        latent_files.check(self._file(chunk_id), latents, chunk_id, self.grid, z_dim)

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
        phrases = differences((self.settings, self.captions), (settings, captions))
        stored = self.image()
        if stored is None or image is None:
            if stored is not image:
                phrases.append(f"it begins with {'no' if stored is None else 'an'} image")
        elif not np.array_equal(stored, image):
            phrases.append("its first image is another")
        if phrases:
            raise UserError(
                f"{self.path} already holds another run ({listed(phrases)}); choose a new `out` folder, "
                f"or go on with that run by 'python -m bvjax resume {shlex.quote(str(self.path))}'"
            )


def _check_kinds(path: pathlib.Path) -> None:
    """Raises `UserError` where a folder, a pipe or another thing has the name of a run's file."""
    for folder in (path / "latents", path / "archive"):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
    for file in (*(path / name for name in _FILES), *latent_files.all_files(path)):
        if file.exists() and not file.is_file():
            raise UserError(f"{file} is not a file")


def _write_json(path: pathlib.Path, content: Any) -> None:
    write_atomic(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
