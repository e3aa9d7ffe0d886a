"""A folder of encoded films, looked at as if a stranger had written it: every file, every record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from bvjax.array_files import first_line
from bvjax.errors import UserError
from bvjax.files import read_json_object
from bvjax.lvbench.dataset.files import Problem
from bvjax.lvbench.dataset.split import SPLIT_FILE, SPLITS, load_split
from data_pipelines.encoded.film import DTYPES
from data_pipelines.encoded.folder import NULL_TEXT, read_null_text
from data_pipelines.encoded.intact import DamagedExample
from data_pipelines.encoded.manifest import FACTS, MANIFEST
from data_pipelines.encoded.records import read_arrays
from data_pipelines.encoded.shards import SHARD_SUFFIX, Shard, read_index, read_parts

SETTINGS = "settings.json"


def check_latents(root: Path) -> tuple[list[Problem], dict[str, int]]:
    """What is wrong with a folder that `data_pipelines.encode` has written, and how much was looked at.

    Raises:
        UserError: it is no such folder.
    """
    if not (root / MANIFEST).is_file() or not (root / SETTINGS).is_file():
        raise UserError(
            f"{root} has no {MANIFEST} and {SETTINGS}; python -m data_pipelines.encode makes them"
        )
    found: list[Problem] = []
    settings = _settings(root, found)
    text = _null_text(root, found)
    films: dict[str, str] = {}  # with the place where their examples are
    counts = {"shards": 0, "films": 0, "examples": 0}
    for side in SPLITS:
        for path in sorted((root / side).glob("*.json")):
            where = f"{side}/{path.name}"
            try:
                shard = read_index(path)
            except UserError as error:
                found.append(Problem(where, str(error)))
                continue
            counts["shards"] += 1
            for part in shard.films:
                if part.film in films:
                    found.append(Problem(where, f"{part.film!a} is in {films[part.film]} too"))
                films[part.film] = where
            place = f"{side}/{shard.path.name}"
            found += [Problem(place, problem) for problem in _records(shard, settings, text)]
            counts["examples"] += len(shard.examples)
        found += _parts(root, side, films)
    counts["films"] = len(films)
    return found + _split(root, films), counts


def _split(root: Path, films: Mapping[str, str]) -> list[Problem]:
    """What is wrong with split.json, for films whose examples are in these places."""
    content = load_split(root)
    if isinstance(content, str):
        return [Problem(SPLIT_FILE, content)]
    lists: dict[str, set[str]] = {}
    for side in SPLITS:
        names = content.get(side) if isinstance(content, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            form = 'must be {"seed": 0, "train": [NAME, ...], "test": [NAME, ...]}'
            return [Problem(SPLIT_FILE, form)]
        lists[side] = set(names)
    both = lists[SPLITS[0]] & lists[SPLITS[1]]
    found = [f"{name!a} is in {' and in '.join(SPLITS)}" for name in sorted(both)]
    found += [
        f"{name!a} is in {place}, and not in this file's list"
        for name, place in films.items()
        if not any(name in lists[side] and side in place.split("/") for side in SPLITS)
    ]
    return [Problem(SPLIT_FILE, problem) for problem in found]


def _settings(root: Path, found: list[Problem]) -> dict[str, Any]:
    """The settings, {} where they are none; and the manifest is looked at."""
    settings: dict[str, Any] = {}
    try:
        settings = read_json_object(root / SETTINGS)
        chunks, dtype = settings.get("chunks"), settings.get("dtype")
        good = settings.get("format") == "array_record" and dtype in DTYPES
        if not good or type(chunks) is not int or chunks < 1:
            form = f'"chunks": 1 or more, "dtype": {" or ".join(DTYPES)}'
            raise UserError(f'must be {{"format": "array_record", {form}}}')
    except UserError as error:
        found.append(Problem(SETTINGS, str(error)))
        settings = {}
    try:
        facts = read_json_object(root / MANIFEST)
        lacking = [name for name in FACTS if not isinstance(facts.get(name), str)]
        if lacking:
            raise UserError(f"says nothing of {', '.join(lacking)}")
    except UserError as error:
        found.append(Problem(MANIFEST, str(error)))
    return settings


def _null_text(root: Path, found: list[Problem]) -> tuple[int, int] | None:
    try:
        return read_null_text(root).shape
    except UserError as error:
        found.append(Problem(NULL_TEXT, str(error)))
        return None


def _records(shard: Shard, settings: dict[str, Any], text: tuple[int, int] | None) -> Iterator[str]:
    """What is wrong with the records of a shard."""
    names = shard.examples
    if not shard.path.is_file():
        yield "is missing; its index is there"
        return
    try:
        reader = ArrayRecordReader(str(shard.path), "readahead_buffer_size:0")
        count = reader.num_records()
    except (RuntimeError, ValueError) as error:
        yield f"cannot be read: {first_line(error).partition(';')[0]}"
        return
    expected = sum(len(part.examples) for part in shard.written)
    if count != expected:
        yield f"has {count} records; its index names {expected}"
    for number, name in zip(shard.records, names, strict=True):
        if number >= count:
            break
        try:
            arrays, spec = read_arrays(reader.read([number])[0], f"the example {name!a}")
        except DamagedExample as error:
            yield str(error)
            continue
        except (RuntimeError, IndexError) as error:
            yield f"the example {name!a} cannot be read: {first_line(error).partition(';')[0]}"
            continue
        if settings and spec.chunks != settings["chunks"]:
            yield f"the example {name!a} has {spec.chunks} chunks; {SETTINGS} says {settings['chunks']}"
        if settings and str(arrays["latents"].dtype) != settings["dtype"]:
            yield f"the example {name!a} is {arrays['latents'].dtype}; {SETTINGS} says {settings['dtype']}"
        if text and (spec.text[0] > text[0] or spec.text[1] != text[1]):
            yield f"the example {name!a} has text states {list(spec.text)}; {NULL_TEXT} has {list(text)}"


def _parts(root: Path, side: str, films: dict[str, str]) -> Iterator[Problem]:
    """Problems of what is in no shard yet, and of what is no finished shard."""
    for path in sorted((root / side).glob(f"*{SHARD_SUFFIX}")):
        if not path.with_suffix(".json").exists():
            yield Problem(f"{side}/{path.name}", "has no index: it was never finished, encode again")  # fmt: skip
    try:
        parts = read_parts(root, side)
    except UserError as error:
        yield Problem(f"parts/{side}", str(error))
        return
    for folder, part in parts.items():
        missing = [name for name in part.examples if not (folder / f"{name}.npz").is_file()]
        if missing:
            yield Problem(f"parts/{side}/{folder.name}", f"{part.film!a} lacks {missing[0]}")
        if part.examples:
            films.setdefault(part.film, f"parts/{side}")
