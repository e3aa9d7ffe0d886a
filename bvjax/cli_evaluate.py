"""The commands about videos that exist: python -m bvjax evaluate | compare | validate."""

# As in cli.py, JAX is imported inside the commands.
from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Iterable

from bvjax import console
from bvjax.errors import UserError
from bvjax.plain_text import shown, whole_number

EXAMPLES = """\
examples:
  python -m bvjax evaluate --videos runs/fox --out runs/fox-evaluation
  python -m bvjax evaluate --videos clips --suite paper --flow lk --chunks 15
  python -m bvjax evaluate --list-weights
  python -m bvjax evaluate --convert-weights ~/Downloads/metrics
  python -m bvjax compare runs/a/results.json runs/b/results.json
"""


def register(commands) -> None:
    """Adds the commands to the parser of `python -m bvjax`."""
    evaluate = commands.add_parser(
        "evaluate", help="measure drift and quality of videos (LV-Bench)", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure how videos drift (VDE) and how good they are. The same command again goes "
        "on where it stopped.",
    )  # fmt: skip
    evaluate.set_defaults(command=_evaluate)
    add = evaluate.add_argument
    add("--videos", metavar="DIR", help="folder of videos, searched with all below it, or one file")
    add("--out", metavar="DIR", help="folder for results (default: runs/evaluation/NAME)")
    add("--name", help="what made the videos, for tables (default: the folder's name)")
    add(
        "--suite",
        help="official (the published evaluator), paper (A.4.3; needs no weights) or all "
        "(default: paper, and of official what has its weights)",
    )
    add("--metrics", default="", metavar="A,B", help="only these, for example clarity,motion")
    add("--chunks", type=int, default=10, metavar="N", help="equal parts of a video (default: 10)")
    add("--weights", default="linear", help="of VDE: linear or log (default: linear)")
    add("--prompts", metavar="FILE", help="what the videos show: {video: prompt}, or captions")
    add("--weights-dir", metavar="DIR", help="where converted metric networks are")
    add("--list-weights", action="store_true", help="print which files are needed, and stop")
    add("--convert-weights", nargs="+", metavar="SRC", default=[],
        help="convert published files, or a folder of them, once (needs torch)")  # fmt: skip
    add("--flow", default="dis", help="optical flow of the suite paper: dis, raft or lk")
    add("--static", type=float, default=1.0, metavar="TAU",
        help="up to which flow a background pixel stands still, pixels a frame at 480p")  # fmt: skip
    add("--subject", default="histogram", help="identity encoder of paper: histogram or dino")
    add("--aesthetic", default="handmade", help="of paper: handmade, laion or MODULE:FUNCTION")
    add(
        "--batch",
        type=int,
        default=8,
        metavar="N",
        help="frames the device gets at a time; a pair counts for 8 (default: 8)",
    )
    add("--mesh", metavar="data=N", help="how many devices share the work (default: all)")
    add(
        "--shard",
        metavar="I/N",
        help="take every N-th video from the I-th on (0/4, 1/4, ...): "
        "processes that share --out; the last one to finish writes the results",
    )
    add("--keep-going", action="store_true", help="exit with 0 even if videos were left out")

    compare = commands.add_parser(
        "compare",
        help="two evaluations of the same videos or prompts, pair by pair",
        description="Paired differences between two results.json, with intervals and significance.",
    )
    compare.set_defaults(command=_compare)
    compare.add_argument("a", metavar="A.json")
    compare.add_argument("b", metavar="B.json")
    compare.add_argument("--markdown", metavar="FILE", help="write the table there as well")

    validate = commands.add_parser(
        "validate",
        help="what is wrong with a folder of videos and captions",
        description="Check a folder in LV-Bench's form, or any folder of videos, and say what is wrong where.",
    )
    validate.set_defaults(command=_validate)
    validate.add_argument("folder", metavar="DIR")


def _evaluate(args: argparse.Namespace) -> int:
    from bvjax.lvbench import weights

    folder = pathlib.Path(args.weights_dir) if args.weights_dir else weights.default_folder()
    if args.convert_weights:
        from bvjax.conversion import metric_weights

        sources = [pathlib.Path(source) for source in args.convert_weights]
        metric_weights.convert(sources, folder, say=print)
    if args.list_weights:
        print("\n".join(weights.lines(folder)))
        return 0
    if args.videos:
        return _measure(args, folder)
    if not args.convert_weights:
        raise UserError("say which videos to measure, with --videos DIR")
    return 0


def _measure(args: argparse.Namespace, weights_folder: pathlib.Path) -> int:
    from bvjax.lvbench.evaluation import evaluate_videos

    devices, shard = _devices(args.mesh), _shard(args.shard)
    console.set_up()
    with console.going_on(console.AGAIN), _Bar() as progress:
        outcome = evaluate_videos(
            args.videos, out=args.out or None, name=args.name, suite=args.suite,
            metrics=tuple(filter(None, args.metrics.split(","))), chunks=args.chunks,
            weights=args.weights, prompts=args.prompts or None, weights_dir=weights_folder,
            flow=args.flow, static=args.static, subject=args.subject, aesthetic=args.aesthetic,
            batch=args.batch, devices=devices, shard=shard, progress=progress,
        )  # fmt: skip
    if outcome.pending:
        print(f"this part is done; the results wait for {', '.join(outcome.pending)}")
    else:
        _print(outcome.lines)
    if not outcome.failures:
        return 0
    console.say("\n".join(["could not be measured:", *outcome.failures]))
    return 0 if args.keep_going else 1


def _compare(args: argparse.Namespace) -> None:
    from bvjax.files import write_atomic
    from bvjax.lvbench import compare
    from bvjax.lvbench.results import load_results

    comparison = compare.compare(
        load_results(pathlib.Path(args.a)), load_results(pathlib.Path(args.b))
    )
    _print(compare.text(comparison))
    if args.markdown:
        path = pathlib.Path(args.markdown)
        if not path.parent.is_dir():
            raise UserError(f"there is no folder {path.parent} for {path.name}")
        try:
            write_atomic(path, ("\n".join(compare.markdown(comparison)) + "\n").encode())
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _validate(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from bvjax.lvbench.dataset import examine

    track = lambda videos: tqdm(videos, unit="video", disable=None)
    problems = examine.validate(pathlib.Path(args.folder), track=track)
    _print(examine.lines(problems))
    return 1 if problems else 0


def _print(lines: Iterable[str]) -> None:
    """Lines on stdout, with nothing in them that steers the terminal."""
    print("\n".join(map(shown, lines)))


class _Bar:
    """Progress as a bar of frames."""

    def __enter__(self) -> _Bar:
        self._bar = None
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def count_video(self, video: int, videos: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=videos, unit="video", desc="counting frames", leave=False, disable=None
            )
        self._bar.update(video - self._bar.n)

    def start(self, frames: int, videos: int) -> None:
        from tqdm import tqdm

        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if frames:
            self._bar = tqdm(total=frames, unit="frame", smoothing=0.1, disable=None)

    def video(self, name: str) -> None:
        if self._bar is not None:
            self._bar.set_description(shown(name[-40:]))
            if self._bar.disable:
                console.say(f"measuring {name}")

    def advance(self, frames: int) -> None:
        if self._bar is not None:
            self._bar.update(frames)

    def problem(self, sentence: str) -> None:
        from tqdm import tqdm

        tqdm.write(shown(f"warning: {sentence}"), file=sys.stderr)


def _devices(mesh: str | None) -> int | None:
    """Parses `data=N`; None means all devices."""
    if mesh is None:
        return None
    axis, equals, number = mesh.partition("=")
    count = whole_number(number)
    if axis != "data" or not equals or not count:
        raise UserError(f"videos are shared along data only: --mesh data=N, not {mesh!r}")
    return count


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, count = (whole_number(part) for part in text.partition("/")[::2])
    if index is None or count is None or index >= count:
        raise UserError(f"--shard is I/N with I from 0 to N - 1, for example 0/4, not {text!r}")
    return index, count
