"""Shards: encoded examples in ArrayRecord files of about equal size, each with an index beside it.

    ROOT/SPLIT/00007.array_record    a record per example: the bytes of an .npz, as `folder.write_example` makes them
    ROOT/SPLIT/00007.json            whose they are (`Shard`); what has none was never finished
    ROOT/parts/SPLIT/KEY/            the examples of a film that are in no shard yet, and part.json once it is whole

ArrayRecord files cannot be gone on with, so a film's examples are written as files of their own first, and films that
are whole move into a shard together. Killed at any moment, nothing is lost and nothing is there twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from bvjax.errors import UserError
from bvjax.files import DISK_FULL, read_json_object, write_atomic, write_json
from data_pipelines.encoded.latent_statistics import Statistics

PARTS, PART = "parts", "part.json"
SHARD_SUFFIX = ".array_record"
SHARD_BYTES = 256 << 20  # of latents and text states after which a shard is full
FORMAT = 1  # of index files
_WRITING = (
    "group_size:1,uncompressed"  # latents are noise to a compressor; one record is read at a time
)
_READING = "readahead_buffer_size:0"


@dataclasses.dataclass(frozen=True)
class Part:
    """The examples of one film.

    Args:
        film: its name.
        source: a hash of what they depend on (`captions_hash`).
        examples: names of the examples in order, without suffix.
        frames: of the film, at the model's rate, that are in them.
        statistics: of their latents.
    """

    film: str
    source: str
    examples: tuple[str, ...]
    frames: int
    statistics: Statistics

    def to_json(self) -> dict[str, Any]:
        """The content of part.json, and of a film in an index."""
        return {
            "film": self.film,
            "source": self.source,
            "examples": list(self.examples),
            "frames": self.frames,
            "statistics": self.statistics.to_json(),
        }

    @staticmethod
    def of_json(content: Any, where: str) -> Part:
        """Raises `UserError` for what is none."""
        try:
            film, source, examples = content["film"], content["source"], content["examples"]
            frames = content["frames"]
            statistics = Statistics.of_json(content["statistics"])
            names = [film, source, *examples]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{where} does not describe encoded films") from None
        if not all(isinstance(name, str) for name in names) or not isinstance(frames, int):
            raise UserError(f"{where} does not describe encoded films")
        return Part(film, source, tuple(examples), frames, statistics)


@dataclasses.dataclass(frozen=True)
class Shard:
    """An index: the films of a shard, whose examples are its records in order."""

    path: Path  # of the ArrayRecord file
    films: tuple[Part, ...]

    @property
    def examples(self) -> list[str]:
        """Names of its examples, by record."""
        return [f"{part.film}/{name}" for part in self.films for name in part.examples]


def part_folder(root: Path, split: str, film: str) -> Path:
    """The folder of a film's examples; films may have any name."""
    return root / PARTS / split / hashlib.sha256(film.encode()).hexdigest()[:24]


def write_part(folder: Path, part: Part) -> None:
    """Says that a film's examples are all there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PART, part.to_json())


def read_parts(root: Path, split: str) -> dict[Path, Part]:
    """The films that are whole and in no shard, by their folders, in order of their names."""
    found = {
        path.parent: Part.of_json(read_json_object(path), str(path))
        for path in (root / PARTS / split).glob(f"*/{PART}")
    }
    return dict(sorted(found.items(), key=lambda item: item[1].film))


def read_shards(root: Path, split: str) -> list[Shard]:
    """The indices of a split, in order of their names; raises `UserError` for one that is damaged."""
    return [read_index(path) for path in sorted((root / split).glob("*.json"))]


def read_index(path: Path) -> Shard:
    """The index of a shard; raises `UserError` for one that is damaged."""
    content = read_json_object(path, "the index")
    films = content.get("films")
    if content.get("format") != FORMAT or not isinstance(films, list):
        raise UserError(f"the index {path} is not one of format {FORMAT}; encode the films again")
    parts = tuple(Part.of_json(film, f"the index {path}") for film in films)
    return Shard(path.with_suffix(SHARD_SUFFIX), parts)


def pack(
    root: Path,
    split: str,
    least: int = SHARD_BYTES,
    rest: bool = False,
    prefix: str = "",
    mine: Callable[[str], bool] = lambda film: True,
) -> int:
    """Moves films into shards of `least` bytes and a little more; returns how many it wrote.

    Args:
        root: the folder.
        split: the folder in it.
        least: bytes.
        rest: packs what is less as well.
        prefix: begins the names of this process' shards, where several work in one folder.
        mine: which films this process packs.

    Raises:
        OSError: the disk is full; what was there is there still.
    """
    packed = {part.film for shard in read_shards(root, split) for part in shard.films}
    group: dict[Path, Part] = {}
    written, size = 0, 0
    for folder, part in read_parts(root, split).items():
        if part.film in packed:  # it was killed before it could remove them
            shutil.rmtree(folder)
            continue
        if not part.examples or not mine(
            part.film
        ):  # nothing to pack, and it stays known that the film has none
            continue
        group[folder] = part
        size += sum((folder / f"{name}.npz").stat().st_size for name in part.examples)
        if size >= least:
            _write_shard(root, split, prefix, group)
            written, group, size = written + 1, {}, 0
    if rest and group:
        _write_shard(root, split, prefix, group)
        written += 1
    return written


def _write_shard(root: Path, split: str, prefix: str, group: Mapping[Path, Part]) -> None:
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    taken = {path.stem for path in folder.glob("*.json")}
    number = next(n for n in range(len(taken) + 1) if f"{prefix}{n:05d}" not in taken)
    path = folder / f"{prefix}{number:05d}{SHARD_SUFFIX}"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    files = [folder / f"{name}.npz" for folder, part in group.items() for name in part.examples]
    try:
        write_records(temporary, files)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    films = [part.to_json() for part in group.values()]
    content = {"format": FORMAT, "records": len(files), "films": films}
    write_atomic(path.with_suffix(".json"), json.dumps(content).encode())
    for folder in group:
        shutil.rmtree(folder)


def write_records(path: Path, files: Sequence[Path]) -> None:
    """Writes the contents of files as the records of an ArrayRecord file and reads them back.

    Raises:
        OSError: the disk is full, or does not give back what was written.
    """
    try:
        writer = ArrayRecordWriter(str(path), _WRITING)
        for file in files:
            writer.write(file.read_bytes())
        writer.close()
        reader = ArrayRecordReader(str(path), _READING)
        same = reader.num_records() == len(files) and all(
            reader.read([i])[0] == file.read_bytes() for i, file in enumerate(files)
        )
        reader.close()
    except RuntimeError as error:  # the library's only kind
        full = os.strerror(DISK_FULL[0])
        if full in str(error):
            raise OSError(DISK_FULL[0], full, str(path)) from None
        raise OSError(None, str(error).partition(";")[0], str(path)) from None
    if not same:
        raise OSError(None, "what was written is not what is read", str(path))


def captions_hash(captions: Iterable[Iterable[str]]) -> str:
    """Tells whether a film's captions are those that were encoded."""
    text = json.dumps([list(take) for take in captions])
    return hashlib.sha256(text.encode()).hexdigest()
