"""Command line of the memory benchmark; see --help."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bvjax import console
from bvjax.errors import UserError
from bvjax.files import sha256_of
from bvjax.versions import versions
from experiments.evaluation.judge import DEFAULT, load_judge
from experiments.evaluation.results import Record, Results
from experiments.evaluation.under_test import UnderTest
from experiments.memory_bench.axes import AXES, STORY_AXES, check_axes, points
from experiments.memory_bench.cases import VERSION, read_cases, write_cases
from experiments.memory_bench.report import table, write_page, write_report
from experiments.memory_bench.running import MODES, Bench, jobs_of
from experiments.memory_bench.scores import summary
from experiments.memory_bench.videos import find_videos, judge_videos
from experiments.run_folder import make_writable

STORIES, QUICK_STORIES = 16, 4
RESULTS = "results.json"


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and does what it asks; returns the exit code."""
    args = _parser().parse_args(argv)

    def command() -> None:
        console.set_up()
        with console.going_on(console.AGAIN):
            args.command(args)

    return console.run(command, "error")


def stories(args: argparse.Namespace) -> None:
    """Writes the stories of some axes, and cases.json."""
    axes = check_axes(args.axis or STORY_AXES, STORY_AXES)
    found = [job.case for job in jobs_of(points(axes, args.quick), _seeds(args))]
    make_writable(args.out)
    print(f"{len(found)} stories: {write_cases(args.out, found)}")


def run(args: argparse.Namespace) -> None:
    """Generates and judges what is missing, and writes the report."""
    axes, overrides = check_axes(args.axis or AXES), tuple(args.set)
    judge = load_judge(args.judge)
    make_writable(args.out)
    results = Results(args.out / RESULTS)
    tested = UnderTest.load(args.weights, overrides)
    jobs = jobs_of(points(axes, args.quick, tested.model), _seeds(args))
    fingerprint = {
        **_fingerprint(args.judge),
        "weights": tested.sha256,
        "overrides": list(overrides),
        "seed": args.seed,
    }
    records = results.records(args.mode, fingerprint)
    bench = Bench(tested, judge, results, args.out, args.seed, overrides)
    bench.run(args.mode, jobs, records)
    _finish(args, results, args.mode, summary(points(AXES, False, tested.model), records))


def judge(args: argparse.Namespace) -> None:
    """Judges videos that were made elsewhere, and writes the report."""
    cases = read_cases(args.cases)
    videos, judge_net = find_videos(args.videos, cases), load_judge(args.judge)
    make_writable(args.out)
    results = Results(args.out / RESULTS)
    folder = {"videos": str(args.videos.resolve())}
    records = results.records("videos", _fingerprint(args.judge) | folder)
    judge_videos(judge_net, videos, records, results)
    asked: dict[str, Record] = {f"{case.key} | ": records[f"{case.key} | "] for case in cases}
    _finish(args, results, "videos", summary(points(STORY_AXES, False), asked))


def report(args: argparse.Namespace) -> None:
    """Writes the report of what was measured."""
    if not (args.out / RESULTS).is_file():
        raise UserError(
            f"there are no results in {args.out}; the commands run and judge write them"
        )
    _write(args, Results(args.out / RESULTS))


def _finish(args: argparse.Namespace, results: Results, part: str, result: dict[str, Any]) -> None:
    command = shlex.join(["python", "-m", "experiments.memory_bench", *sys.argv[1:]])
    made = {**versions(), "command": command, "made": time.strftime("%Y-%m-%d %H:%M:%S")}
    results.finish(part, result, made)
    print(table(result))
    _write(args, results)


def _write(args: argparse.Namespace, results: Results) -> None:
    print(*write_report(args.out, results), sep="\n")
    if args.page is not None:
        write_page(args.page, args.out, results)
        print(args.page)


def _fingerprint(judge_file: Path) -> dict[str, Any]:
    return {"judge": sha256_of(judge_file), "version": VERSION}


def _seeds(args: argparse.Namespace) -> Sequence[int]:
    count = args.stories or (QUICK_STORIES if args.quick else STORIES)
    return range(args.first_story, args.first_story + count)


def _number(least: int, most: int):
    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"it must be {least} to {most}, not {value}")
        return value

    parse.__name__ = "number"
    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.memory_bench",
        description="Does a video still know who comes back, and to where, after a gap?",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(function, *, folder: str) -> argparse.ArgumentParser:
        text = (function.__doc__ or "").rstrip(".")
        sub = commands.add_parser(function.__name__, help=text[0].lower() + text[1:])
        sub.set_defaults(command=function)
        sub.add_argument("--out", type=console.path, required=True, metavar="DIR", help=folder)
        return sub

    def choose(sub: argparse.ArgumentParser, axes: Sequence[str]) -> None:
        sub.add_argument(
            "--axis",
            type=lambda text: text.split(","),
            metavar="NAMES",
            help=f"which axes, separated by commas (default all): {', '.join(axes)}",
        )
        sub.add_argument("--quick", action="store_true", help="fewer values and stories")
        sub.add_argument(
            "--stories",
            type=_number(1, 10_000),
            metavar="N",
            help=f"stories for each point (default {STORIES}, {QUICK_STORIES} with --quick)",
        )
        sub.add_argument("--first-story", type=_number(0, 900_000), default=0, metavar="SEED")

    def add_judge(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--judge", type=console.path, default=DEFAULT, help="another judge")

    def add_page(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--page",
            type=console.path,
            metavar="FILE",
            help="a page of Markdown that the report goes into, with its plots beside it",
        )

    choose(add(stories, folder="the folder of stories and cases.json"), STORY_AXES)
    sub = add(run, folder="the folder of results; the same command goes on in it")
    choose(sub, tuple(AXES))
    sub.add_argument("--weights", type=console.path, default=Path("bvjax/assets/mini"))
    sub.add_argument(
        "--mode", choices=MODES, default="given", help="whose past: the true one, or its own"
    )
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override of the model"
    )
    sub.add_argument(
        "--seed", type=_number(0, 2**31), default=0, help="of the noise; each story adds its own"
    )
    add_judge(sub)
    add_page(sub)
    sub = add(judge, folder="the folder of results")
    sub.add_argument(
        "--videos", type=console.path, required=True, metavar="DIR", help="a video for each case"
    )
    sub.add_argument(
        "--cases", type=console.path, required=True, metavar="DIR", help="what `stories` wrote"
    )
    add_judge(sub)
    add_page(sub)
    add_page(add(report, folder="a folder of results"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
