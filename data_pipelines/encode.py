"""Your own films as training data: latents and text states in shards that `experiments.train` reads.

    python -m data_pipelines.encode --videos films --weights runs/mini --out data/films --chunks 10
    python -m experiments.train --config=experiments/configs/mini_films.py --workdir=runs/films \\
        --config.data.latents=data/films --config.data.weights=runs/mini --init-from=runs/mini

Captions lie beside the films in LV-Bench's form (`bvjax.lvbench.dataset.examine`): NAME.json beside NAME.mp4, or one
captions.json for all, with the seconds that each caption covers. A film gives as many examples as it has times
`--chunks` whole chunks. It goes to the split of the folder's split.json; without one, a fifth of the films are drawn
for "test" and the lists are kept in the output folder, where films that come later only add to them.

Frames pass through the VAE in pieces, so a film may have any length. What is finished is kept: killed and run again,
the command goes on where it was, also with other films beside the first. A film whose captions changed is encoded
anew, and its old examples are left out. A caption for which the text encoder has no room is shortened at a word, and
that is said. A film that cannot be used is told of in a
sentence and counted in report.json, and the others are encoded. Several processes share the work with `--share I/N`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bvjax import console
from bvjax.errors import UserError
from bvjax.files import read_json_object, write_json
from bvjax.lvbench.dataset.split import SPLITS
from bvjax.runs.place import lock
from bvjax.weights import load_config
from data_pipelines.commands import add_folders, examples_text, say_problems, say_shortened
from data_pipelines.encoded import shards
from data_pipelines.encoded.encoders import Encoders, check_arrangement, load_encoders
from data_pipelines.encoded.film import (
    DTYPES,
    Film,
    Options,
    encode_film,
    fitting,
    source_of,
)
from data_pipelines.encoded.film_folder import read_films
from data_pipelines.encoded.folder import write_null_text
from data_pipelines.encoded.latent_statistics import add
from data_pipelines.encoded.manifest import claim

SETTINGS, REPORT, STATISTICS = "settings.json", "report.json", "statistics.json"


def encode(
    weights: Path,
    films: Iterable[Film],
    root: Path,
    options: Options,
    gone: Iterable[str] = (),
) -> dict[str, Any]:
    """Encodes the films that are not encoded yet, or were with other takes, captions or files.

    Args:
        weights: folder with the VAE and the text encoder.
        films: with their captions; `Film.split` is one of `SPLITS`.
        root: the folder of shards.
        options: see there.
        gone: names of films of which nothing is wanted any more: what is encoded of them is left out.

    Returns:
        The report: how many examples there are in each split, films by what became of them, {film: sentence} of
        those that could not be encoded, and {film: how many of its captions were shortened}.

    Raises:
        UserError: `root` holds examples of other weights or options, or another process works there with the same
            share, or the model's chunks are not cut as training cuts them.
        OSError: the disk is full; what is finished is kept.
    """
    encoders = load_encoders(weights)
    _prepare(root, weights, encoders, options)
    own = [film for film in films if options.own(film.name)]
    with _locked(root, options):
        return _encode(encoders, own, root, options, [name for name in gone if options.own(name)])


def _encode(
    encoders: Encoders, films: Sequence[Film], root: Path, options: Options, gone: Sequence[str]
) -> dict[str, Any]:
    problems: dict[str, str] = {}
    became = ("encoded", "encoded again", "encoded before", "too short", "not usable", "left out")
    counts = dict.fromkeys(became, 0)
    room = encoders.model.text.max_length
    fitted = [fitting(film, encoders.tokenizer, room) for film in films]
    short = {film.name: count for film, count in fitted if count}
    films = [film for film, _ in fitted]
    done, again = _retire(root, films, gone)
    counts["left out"] = len(again & {*gone})
    waiting = options.shard_bytes  # bytes that are in no shard yet, or as if there were
    for film in tqdm(films, unit="film", disable=None):
        known = done.get(film.name)
        try:
            part = known or encode_film(encoders, film, root, options)
        except UserError as error:
            problems[film.name] = str(error)
            counts["not usable"] += 1
            continue
        what = "encoded before" if known else "encoded again" if film.name in again else "encoded"
        counts[what if part.examples else "too short"] += 1
        if known is None:
            waiting += _bytes(shards.part_folder(root, film.split, film.name))
        if waiting >= options.shard_bytes:
            _pack(root, options, rest=False)
            waiting = 0
    _pack(root, options, rest=True)
    write_json(root / STATISTICS, _statistics(root))
    report = {
        "films": counts, "examples": _examples(root), "problems": problems, "shortened": short
    }  # fmt: skip
    write_json(root / REPORT, report)
    return report


def _retire(
    root: Path, films: Sequence[Film], gone: Iterable[str]
) -> tuple[dict[str, shards.Part], set[str]]:
    """The films that are encoded as they are now, and names of those that were otherwise and are left out."""
    wanted = {film.name: film for film in films}
    done: dict[str, shards.Part] = {}
    again: set[str] = set()
    for side in SPLITS:
        encoded = _encoded(root, side)
        stale = {name for name in gone if name in encoded}
        for name in encoded.keys() & wanted.keys():
            if side == wanted[name].split and encoded[name].source == source_of(wanted[name]):
                done[name] = encoded[name]
            else:
                stale.add(name)
        shards.retire(root, side, stale)
        again |= stale
    return done, again


@contextlib.contextmanager
def _locked(root: Path, options: Options) -> Iterator[None]:
    """Keeps others with the same share out; raises `UserError`."""
    folder = root / shards.PARTS / f"share_{options.prefix or 'all'}"
    folder.mkdir(parents=True, exist_ok=True)
    held = lock(folder)
    try:
        yield
    finally:
        os.close(held)


def _pack(root: Path, options: Options, rest: bool) -> None:
    for side in SPLITS:
        shards.pack(root, side, options.shard_bytes, rest, options.prefix, options.own)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.npz"))


def _examples(root: Path) -> dict[str, int]:
    return {
        side: sum(len(shard.examples) for shard in shards.read_shards(root, side))
        for side in SPLITS
    }


def _statistics(root: Path) -> dict[str, Any]:
    """Statistics of the latents of each split by channel, with the numbers of its examples, films, frames and bytes."""
    found = {}
    for side in SPLITS:
        every = shards.read_shards(root, side)
        films = [part for shard in every for part in shard.films]
        found[side] = {
            "examples": sum(len(part.examples) for part in films),
            "films": len(films),
            "frames": sum(part.frames for part in films),
            "bytes": sum(shard.path.stat().st_size for shard in every if shard.path.exists()),
            "latents": add(part.statistics for part in films).summary(),
        }
    return found


def _prepare(root: Path, weights: Path, encoders: Encoders, options: Options) -> None:
    """Makes `root` the folder of these weights and options, or raises `UserError`."""
    check_arrangement(encoders.model)
    claim(root, weights, encoders.model)
    expected = {"format": "array_record", "chunks": options.chunks, "dtype": options.dtype}
    path = root / SETTINGS
    if path.exists():
        found = read_json_object(path)
        for name, value in expected.items():
            if found.get(name) != value:
                raise UserError(
                    f"{root} holds examples with {name} {found.get(name)!r}, not {value!r}; use another folder"
                )
    else:
        write_json(path, expected)
    write_null_text(root, encoders.text([""])[0][0])


def _encoded(root: Path, side: str) -> dict[str, shards.Part]:
    """The films of a split that are encoded, in shards or not."""
    in_shards = {
        part.film: part for shard in shards.read_shards(root, side) for part in shard.films
    }
    return {part.film: part for part in shards.read_parts(root, side).values()} | in_shards


# ---- the command ------------------------------------------------------------------------------------
def share(text: str) -> tuple[int, int]:
    """(i, n) of "I/N"; raises `UserError`."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    i, n = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 <= i < n:
        raise UserError(f"`share` is {text!r}; it must be I/N with I from 0 to N - 1, such as 0/8")
    return i, n


def tell(root: Path, report: Mapping[str, Any]) -> int:
    """Says what there is now, and a sentence for each film that cannot be used; returns the exit code."""
    say_problems(report["problems"])
    say_shortened(report["shortened"])
    films = ", ".join(f"{count} {what}" for what, count in report["films"].items() if count)
    examples = examples_text(report["examples"])
    console.tell(f"{root} has examples: {examples}; films: {films or 'none'}")
    return 1 if report["problems"] else 0


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and encode; returns the exit code, 1 where films could not be used."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.encode",
        description="Encodes films with captions beside them for the DiT's training.",
    )
    add_folders(
        parser,
        videos="of films with captions, in LV-Bench's form",
        weights="with vae and text",
        out="of encoded examples",
    )
    parser.add_argument("--chunks", type=int, default=10, help="of an example (default 10)")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of what is stored")
    parser.add_argument("--seed", type=int, default=0, help="of the split, unless it is there")
    parser.add_argument(
        "--shard-megabytes", type=int, default=shards.SHARD_BYTES >> 20, help="of a full shard"
    )
    parser.add_argument(
        "--share",
        default="0/1",
        metavar="I/N",
        help="encode a part of the films, beside other processes",
    )
    a = parser.parse_args(argv)

    def command() -> int:
        options = Options(a.chunks, a.dtype, a.shard_megabytes << 20, share(a.share))
        with console.going_on(console.AGAIN):
            films, problems = read_films(a.videos, load_config(a.weights), a.out, a.seed)
            report = encode(a.weights, films, a.out, options)
            report["problems"] = problems | report["problems"]
            report["films"]["not usable"] = len(report["problems"])
            write_json(a.out / REPORT, report)
        return tell(a.out, report)

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
