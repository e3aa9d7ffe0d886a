"""The run folders below one folder, read without their locks, and the tree that branches make of them."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import unicodedata
from typing import Any

from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError
from bvjax.files import cannot_write
from bvjax.runs.branch import Origin, origin_of
from bvjax.runs.run_settings import Settings, read_settings, read_story
from bvjax.studio.chunk_store import ChunkStore

HIDDEN = ".studio"  # what the studio keeps beside the runs
_LONGEST_SLUG = 40


class NoSuchRun(UserError):
    """There is no run of this name."""


@dataclasses.dataclass(frozen=True)
class Version:
    """A run folder as it is described on disk."""

    name: str
    path: pathlib.Path
    title: str
    captions: tuple[str, ...]
    settings: Settings
    origin: Origin | None
    made: float  # seconds since 1970 when it began, or its settings changed

    @property
    def grid(self) -> ChunkGrid:
        return ChunkGrid.of(self.settings.model, len(self.captions))

    @property
    def is_finished(self) -> bool:
        """Whether its video is whole: the report is written last."""
        return (self.path / "report.json").is_file()


class Versions:
    """The run folders that are children of `root`."""

    def __init__(self, root: pathlib.Path, weights_sha256: str):
        self.root, self._weights = root, weights_sha256
        self.store = ChunkStore(root / HIDDEN / "chunks")
        self._read: dict[str, tuple[tuple[int, int], Version]] = {}

    def all(self) -> list[Version]:
        """All runs, the newest first; folders that are no runs, or damaged, are left out."""
        found = []
        for entry in os.scandir(self.root):
            try:
                if not entry.name.startswith(".") and entry.is_dir():
                    found.append(self.find(entry.name))
            except UserError:
                continue
        return sorted(found, key=lambda version: (-version.made, version.name))

    def find(self, name: str) -> Version:
        """The run of a name, which never leads out of the folder; raises `NoSuchRun`, `UserError` for a damaged one."""
        path = self.path(name)
        config, story = path / "config.json", path / "story.json"
        try:
            state = (config.stat().st_mtime_ns, story.stat().st_mtime_ns)
        except OSError:
            raise NoSuchRun(f"there is no run {name[:80]!r}") from None
        known = self._read.get(name)
        if known is not None and known[0] == state:
            return known[1]
        captions, title = read_story(story)
        settings = read_settings(config, len(captions))
        version = Version(
            name, path, title, captions, settings, origin_of(path), config.stat().st_mtime
        )
        self._read[name] = (state, version)
        return version

    def path(self, name: str) -> pathlib.Path:
        """The folder of a name; raises `NoSuchRun` unless it is a child of the root, and no link."""
        path = self.root / name if name and name == os.path.basename(name) else None
        if path is None or name.startswith(".") or "\0" in name or len(os.fsencode(name)) > 255:
            raise NoSuchRun(f"there is no run {name[:80]!r}")
        if path.is_symlink() or not path.is_dir():
            raise NoSuchRun(f"there is no run {name[:80]!r}")
        return path

    def forget(self, name: str) -> None:
        """Reads a run again when it is next asked for."""
        self._read.pop(name, None)

    def reserve(self, title: str) -> pathlib.Path:
        """A new empty folder, named by a title."""
        plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
        slug = re.sub("[^a-z0-9]+", "-", plain)[:_LONGEST_SLUG].strip("-") or "story"
        for number in range(1, 100_000):
            path = self.root / (slug if number == 1 else f"{slug}-{number}")
            try:
                path.mkdir()
                return path
            except FileExistsError:
                continue
            except OSError as error:
                raise cannot_write(path, error) from None
        raise UserError(f"there are too many runs called {slug}")

    def summary(self, version: Version) -> dict[str, Any]:
        """The facts of a run that the gallery shows."""
        keys = self.store.keys(version.path, version.settings, version.grid)
        chunk, origin = version.settings.model.chunk, version.origin
        done = len([number for number in keys if number > 0])
        return {
            "name": version.name,
            "title": version.title or version.name,
            "chunks": len(version.captions),
            "done": done,
            "finished": version.is_finished and done == len(version.captions),
            "seconds": version.grid.num_frames / chunk.fps,
            "parent": origin.run if origin else None,
            "from_chunk": origin.from_chunk if origin else None,
            "seed": version.settings.seed,
            "made": version.made,
            "ours": version.settings.weights_sha256 == self._weights,
            "still": max(keys, default=None),
            "key": keys[max(keys)] if keys else None,
        }
