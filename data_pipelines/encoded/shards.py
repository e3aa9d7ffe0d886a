"""Shards: encoded examples in ArrayRecord files of about equal size, each with an index beside it.

    ROOT/SPLIT/00007.array_record    a record per example: the bytes of an .npz, as `folder.write_example` makes them
    ROOT/SPLIT/00007.json            whose they are (`Shard`); what has none was never finished
    ROOT/parts/SPLIT/KEY/            the examples of a film that are in no shard yet, and part.json once it is whole

ArrayRecord files cannot be gone on with, so a film's examples are written as files of their own first, and films that
are whole move into a shard together. Nor can records be taken out: those of a film that changed are marked in the index
as stale, and nobody reads them. Killed at any moment, nothing is lost and nothing is there twice.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import itertools
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
FORMATS = (1, 2)  # of index files: without and with stale films
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
    """An index: the films of a shard, whose examples are its records in order.

    Args:
        path: of the ArrayRecord file.
        written: the films in it.
        stale: those of them that were encoded anew since, or are no longer wanted.
    """

    path: Path
    written: tuple[Part, ...]
    stale: frozenset[str] = frozenset()

    @property
    def films(self) -> tuple[Part, ...]:
        """Those whose examples count."""
        return tuple(part for part in self.written if part.film not in self.stale)

    @property
    def examples(self) -> list[str]:
        """Names of its examples."""
        return [f"{part.film}/{name}" for part in self.films for name in part.examples]

    @property
    def records(self) -> list[int]:
        """Numbers of the records of its examples."""
        counted = itertools.count()
        numbers = [(part, next(counted)) for part in self.written for _ in part.examples]
        return [number for part, number in numbers if part.film not in self.stale]

    def to_json(self) -> dict[str, Any]:
        """The content of its index."""
        films = [
            part.to_json() | ({"stale": True} if part.film in self.stale else {})
            for part in self.written
        ]
        count = sum(len(part.examples) for part in self.written)
        return {"format": FORMATS[bool(self.stale)], "records": count, "films": films}


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
    if content.get("format") not in FORMATS or not isinstance(films, list):
        raise UserError(
            f"the index {path} is not one of format {FORMATS[-1]}; encode the films again"
        )
    parts = tuple(Part.of_json(film, f"the index {path}") for film in films)
    stale = frozenset(
        part.film
        for part, film in zip(parts, films, strict=True)
        if film.get("stale", False) is not False
    )
    return Shard(path.with_suffix(SHARD_SUFFIX), parts, stale)


def retire(root: Path, split: str, films: Iterable[str]) -> int:
    """Leaves out what is encoded of films; a shard of which nothing is left is deleted. Returns how many there were.

    Raises:
        OSError: the disk is full; each index is the old one or the new one.
    """
    wanted, found = set(films), set()
    for film in wanted:
        folder = part_folder(root, split, film)
        if folder.exists():
            shutil.rmtree(folder)
            found.add(film)
    if not wanted:
        return 0
    (root / PARTS).mkdir(parents=True, exist_ok=True)
    with open(root / PARTS / ".indices", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # processes with other shares may have films in one shard
        for path in sorted((root / split).glob("*.json")):
            shard = read_index(path)
            gone = wanted & {part.film for part in shard.films}
            if not gone:
                continue
            found |= gone
            left = dataclasses.replace(shard, stale=shard.stale | gone)
            if left.films:
                write_atomic(path, json.dumps(left.to_json()).encode())
            else:
                path.unlink()
                shard.path.unlink(missing_ok=True)
    return len(found)


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
    shard = Shard(path, tuple(group.values()))
    write_atomic(path.with_suffix(".json"), json.dumps(shard.to_json()).encode())
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
