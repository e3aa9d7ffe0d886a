"""The stages of `curate` on Apache Beam: the same functions, for folders that one machine is too small for.

    pip install -r requirements-beam.txt
    python -m data_pipelines.curation.beam --videos /shared/films --weights /shared/mini --out /shared/curated \\
        --set captions.file=/shared/captions.jsonl -- --runner=BundleBasedDirectRunner

What follows -- are Beam's own options: --runner=DataflowRunner, FlinkRunner, SparkRunner with theirs. Films, weights
and the output folder must have the same paths on all workers. Beam itself does again what a lost worker had, and knows
nothing of a run before; the manifest, keyframes and card are those of the local command. The latents are made by
`data_pipelines.encode --share`, a process a device, or by the local command on what is there (`curate --set` the same).
Duplicates are looked for on one worker, which needs a kilobyte for every ten seconds of film.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from bvjax import console
from bvjax.files import read_json_lines
from bvjax.overrides import apply_overrides
from bvjax.weights import load_config
from data_pipelines.commands import add_folders
from data_pipelines.curate import Request, check
from data_pipelines.curation import report
from data_pipelines.curation.captions import write_wanted
from data_pipelines.curation.card import write_card
from data_pipelines.curation.pool import Failed, guarded
from data_pipelines.curation.probe import film_rows
from data_pipelines.curation.rows import Row, by_film
from data_pipelines.curation.run import failed_row, summary, work, write_manifest
from data_pipelines.curation.settings import Settings
from data_pipelines.curation.stages import STAGES, Context, Stage

LOCAL = "--runner=BundleBasedDirectRunner"  # in this process; Beam's default looks for a program to download
Film = tuple[str, list[Row]]
RESULTS = "beam"  # folder of what the stages gave, a line a film


def do(film: Film, name: str, context: Context) -> Film:
    """The rows of a film after a stage."""
    stage = next(stage for stage in STAGES if stage.name == name)
    result = guarded(work, (stage.function, film[1], context))
    if isinstance(result, Failed):
        return film[0], [failed_row(row, name, result.why) for row in film[1]]
    return film[0], result


def do_all(grouped: tuple[int, Any], name: str, context: Context) -> list[Film]:
    """The films after a stage that must see them all, which Beam brings in any order."""
    films = sorted(grouped[1], key=lambda film: film[1][0]["place"])
    _, rows = do(("", [row for _, of in films for row in of]), name, context)
    return list(by_film(rows).items())


def stages_until(settings: Settings, until: str) -> list[Stage]:
    """The stages to be done: without captions' source, those before the captions."""
    names = [stage.name for stage in STAGES]
    wanted = bool(settings.captions.file or settings.captions.endpoint)
    last = len(names) if wanted else names.index("captions")
    if until in names:
        last = min(last, names.index(until) + 1)
    return list(STAGES[:last])


def as_line(film: Film, stage: str) -> str:
    """A film after a stage as a line of JSON, without its samples."""
    import json

    from data_pipelines.curation.rows import without_bulk

    return json.dumps(
        {"stage": stage, "film": film[0], "rows": [without_bulk(row) for row in film[1]]}
    )


def curate(request: Request, options: Sequence[str] = (LOCAL,)) -> dict[str, Any]:
    """Runs the stages on Beam, waits, and writes manifest, report and card; returns the report.

    Raises:
        UserError: as the local `curate`.
    """
    check(request)
    context = Context(request.settings, load_config(request.weights), request.out.absolute())
    rows = [row | {"place": i} for i, row in enumerate(film_rows(request.videos))]
    films: list[Film] = list(by_film(rows).items())
    order, chosen = [name for name, _ in films], stages_until(request.settings, request.until)
    results = context.root / RESULTS
    results.mkdir(parents=True, exist_ok=True)
    for path in results.glob("*.jsonl*"):
        path.unlink()
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        found = pipeline | "films" >> beam.Create(films) | "spread" >> beam.Reshuffle()
        for stage in chosen:
            name = stage.name
            if stage.pool == "whole":
                found = (
                    found
                    | f"{name}: together" >> beam.Map(lambda film: (0, film))
                    | f"{name}: gathered" >> beam.GroupByKey()
                    | name >> beam.FlatMap(do_all, name, context)
                    | f"{name}: spread" >> beam.Reshuffle()
                )
            else:
                found = found | name >> beam.Map(do, name, context)
            lines = found | f"{name}: lines" >> beam.Map(as_line, name)
            lines | f"{name}: written" >> beam.io.WriteToText(str(results / name), ".jsonl")
    after = {stage.name: _read(results, stage.name) for stage in chosen}
    counts = [
        summary(name, [row for of in of_film.values() for row in of])
        | {"films": len(order), "films before": 0, "seconds": 0.0, "failed": {}, "damaged lines": 0}
        for name, of_film in after.items()
    ]
    last = {name: after[chosen[-1].name][name] for name in order}
    write_manifest(context.root, last)
    if "captions" not in after:
        write_wanted([row for of in last.values() for row in of], context.root)
    result = report.build(context.root, counts, last, request.settings.captions)
    write_card(context.root, request.videos, result, last, request.settings)
    return result


def _read(results: Path, stage: str) -> dict[str, list[Row]]:
    """Results of a stage, by film, without what Beam alone needs."""
    lines = [c for path in results.glob(f"{stage}-*.jsonl") for _, c in read_json_lines(path)]
    return {
        line["film"]: [{k: v for k, v in row.items() if k != "place"} for row in line["rows"]]
        for line in lines
    }


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.curation.beam", description="`curate` on Beam."
    )
    add_folders(
        parser, videos="of films", weights="whose chunks are cut", out="of all that is made"
    )
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE"
    )
    parser.add_argument("--until", default="encode", metavar="STAGE")
    a = parser.parse_args(words[:at])

    def command() -> None:
        settings = apply_overrides(Settings(), a.overrides)
        result = curate(
            Request(a.videos, a.weights, a.out, settings, a.until), words[at + 1 :] or [LOCAL]
        )
        for line in report.table(result):
            console.tell(line)

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
