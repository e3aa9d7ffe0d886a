"""From a folder of films to a training set: long takes, chunks, captions and latents that `experiments.train` reads.

    python -m data_pipelines.curate --videos films --weights runs/mini --out data/curated
    python -m data_pipelines.curate --videos films --weights runs/mini --out data/curated \\
        --set captions.file=captions.jsonl

The stages, in order: probe, scenes, takes, duplicates, motion, quality, chunks, keyframes, captions, align, review, and
encode, which is `data_pipelines.encode`, on the sides of the films' split.json or else of a split drawn by film. Each
says in manifest.jsonl what it decided about every take and why, and in report.json how often; README.md is the set's
card, with the terms that films/rights.json states. Their numbers are `--set SECTION.KEY=VALUE`
(`data_pipelines.curation.settings`); with another one, or with other films, what depends on it is done again and
nothing else. Ctrl-C or a kill costs what was at work.

Without captions.file and captions.endpoint it stops after the keyframes and writes captions_wanted.jsonl, whose
captions can be filled in by hand. `python -m data_pipelines.review --data data/curated` shows what there is to people.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bvjax import console
from bvjax.errors import UserError
from bvjax.overrides import apply_overrides
from bvjax.runs.place import lock
from bvjax.weights import load_config
from data_pipelines.commands import add_folders, examples_text, say_problems, say_shortened
from data_pipelines.curation import captions, report
from data_pipelines.curation.card import rights_of, write_card
from data_pipelines.curation.endpoint import check_endpoint
from data_pipelines.curation.measure import Measurer
from data_pipelines.curation.probe import film_rows
from data_pipelines.curation.rows import Row, by_film, is_kept
from data_pipelines.curation.run import problems, run_stage, summary, write_manifest
from data_pipelines.curation.scenes import make_detector
from data_pipelines.curation.settings import Settings
from data_pipelines.curation.stages import NAMES, STAGES, Context
from data_pipelines.curation.to_films import films_of, no_longer_wanted, shortened_in
from data_pipelines.encoded.film_folder import given_split

ENCODE = "encode"
LATENTS = "latents"


@dataclasses.dataclass(frozen=True)
class Request:
    """Request of the command.

    Args:
        videos: folder of films.
        weights: folder whose model the chunks are cut for, and whose VAE and text encoder encode.
        out: folder of all that is written; the shards are in its folder latents.
        settings: of the stages.
        until: the last stage, of `stages.NAMES` or "encode".
        workers: processes; 0 works in this one.
        seed: of the split.
    """

    videos: Path
    weights: Path
    out: Path
    settings: Settings = Settings()
    until: str = ENCODE
    workers: int = 0
    seed: int = 0


def curate(request: Request) -> tuple[dict[str, Any], dict[str, list[Row]]]:
    """Runs the stages; returns the report and the rows by film.

    Raises:
        UserError: there is no film, or settings, weights or the captions' file cannot be used.
        OSError: the disk is full.
    """
    check(request)
    context = Context(request.settings, load_config(request.weights), request.out.absolute())
    films = by_film(film_rows(request.videos))
    given_split(request.videos, films)  # what is wrong with it is told of now
    context.root.mkdir(parents=True, exist_ok=True)
    held, done = lock(context.root), []
    try:
        for stage in STAGES:
            if stage.name == "captions":
                rows = [row for of in films.values() for row in of]
                captions.write_wanted(rows, context.root)
                if not (request.settings.captions.file or request.settings.captions.endpoint):
                    break
            films, counts = run_stage(stage, films, context, request.workers, _bar)
            done.append(counts)
            write_manifest(context.root, films)
            if stage.name == request.until:
                break
        else:
            films, counts = _encode(request, films)
            done.append(counts)
            write_manifest(context.root, films)
    finally:
        os.close(held)
    result = report.build(context.root, done, films, request.settings.captions)
    write_card(context.root, request.videos, result, films, request.settings)
    return result, films


def check(request: Request) -> None:
    """Raises `UserError` for what would be found wrong only after hours."""
    settings = request.settings
    if request.until not in (*NAMES, ENCODE):
        raise UserError(f"`until` is {request.until!r}; it can be {', '.join((*NAMES, ENCODE))}")
    if not 0 <= request.workers <= 1024:
        raise UserError(f"`workers` is {request.workers}; it can be 0 to 1024")
    if settings.captions.file:
        captions.read_file(settings.captions.file)
    elif settings.captions.endpoint:
        check_endpoint(settings.captions)
    rights_of(request.videos)
    Measurer(settings.scenes)
    make_detector(settings.scenes, 25.0)


def _bar(items: Iterable[Any], name: str, total: int) -> Iterable[Any]:
    return tqdm(items, desc=name, total=total, unit="film", disable=None)


def _encode(
    request: Request, films: dict[str, list[Row]]
) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """Encodes what is left; returns the rows and what is reported of it."""
    from data_pipelines.encode import encode
    from data_pipelines.encoded.film import Options

    began, root = time.perf_counter(), request.out / LATENTS
    chosen, films = films_of(films, request.videos, root, request.weights, request.seed)
    result: dict[str, Any] = {"films": {}, "examples": {}, "problems": {}}
    gone = no_longer_wanted(films)
    if chosen or (gone and root.exists()):
        options = Options(request.settings.chunks.least)
        result = encode(request.weights, chosen, root, options, gone)
    rows = [row for of in films.values() for row in of]
    before = result["films"].get("encoded before", 0)
    counts = summary(ENCODE, rows) | {
        "films": len(chosen) - before,
        "films before": before,
        "seconds": round(time.perf_counter() - began, 3),
        "failed": result["problems"],
        "damaged lines": 0,
        "examples": result["examples"],
        "shortened": sum(shortened_in(rows).values()),
    }
    return films, counts


def tell(request: Request, result: dict[str, Any], films: dict[str, list[Row]]) -> int:
    """Says what became of the films; returns the exit code, 1 where work failed that the next run may do."""
    for sentence in problems(films):
        console.say(sentence)
    failed = {name: why for stage in result["stages"] for name, why in stage["failed"].items()}
    say_problems(failed, "not done: ")
    last = result["stages"][-1]
    if last["stage"] == ENCODE:
        say_shortened(shortened_in(row for of in films.values() for row in of))
    for line in report.table(result):
        console.tell(line)
    wanted = last["stage"] == "keyframes" and request.until not in NAMES[: NAMES.index("captions")]
    if wanted and not any(map(is_kept, itertools.chain(*films.values()))):
        console.tell("no take is left to be captioned: the table and manifest.jsonl say why")
    elif wanted:
        console.tell(
            f"captions are wanted: fill in {request.out / captions.WANTED} and give it as captions.file, "
            "or set captions.endpoint"
        )
    if last["stage"] == ENCODE:
        chunks, examples = request.settings.chunks.least, examples_text(last["examples"])
        console.tell(f"{request.out / LATENTS} has examples of {chunks} chunks: {examples}")
    return 1 if failed else 0


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and curate; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.curate",
        description="Makes a training set of a folder of films.",
    )
    add_folders(
        parser,
        videos="of films",
        weights="whose model is to be trained, with vae and text",
        out="of all that is made",
    )
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="a number of a stage, such as motion.least=2",
    )  # fmt: skip
    parser.add_argument(
        "--until", default=ENCODE, metavar="STAGE", help=f"{', '.join(NAMES)} or encode (default)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes (default: the processors)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the requests for captions instead of sending them",
    )
    a = parser.parse_args(argv)

    def command() -> int:
        settings = apply_overrides(Settings(), a.overrides)
        request = Request(a.videos, a.weights, a.out, settings, a.until, a.workers, a.seed)
        with console.going_on(console.AGAIN):
            if a.dry_run:
                return _dry_run(request)
            result, films = curate(request)
        return tell(request, result, films)

    return console.run(command, "error")


def _dry_run(request: Request) -> int:
    """Prints the requests as JSON, one a line, and what they are in all."""
    wanted = dataclasses.replace(request, until="keyframes")
    _, films = curate(wanted)
    rows = [row for of in films.values() for row in of]
    requests = captions.dry_run(rows, request.settings.captions, request.out.absolute())
    for content in requests:
        console.tell(json.dumps(content))
    second = sum(
        "chunks" in row and len(row["chunks"]) > 1 and "dropped" not in row for row in rows
    )
    more = f" and {second} to align takes" if request.settings.captions.align else ""
    console.say(f"{len(requests)} requests for captions{more} would be sent; nothing was")
    return 0


if __name__ == "__main__":
    sys.exit(main())
