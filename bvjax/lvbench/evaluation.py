"""One evaluation from a request to its files: checks, measuring, results, report."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import av
import jax

from bvjax.errors import UserError
from bvjax.files import write_atomic, write_json
from bvjax.lvbench import csv_file, prompts, results, runner, table, vbench_file, weights
from bvjax.lvbench.metric import MetricContext, Options
from bvjax.lvbench.paper import flow, identity
from bvjax.lvbench.report import page
from bvjax.lvbench.store import Store
from bvjax.lvbench.suites import MetricEntry, choose
from bvjax.lvbench.vde import drift_weights
from bvjax.lvbench.video import find_videos
from bvjax.lvbench.weights import default_folder
from bvjax.plain_text import shown
from bvjax.sharding import Layout, make_layout
from bvjax.versions import versions


@dataclasses.dataclass(frozen=True)
class Request:
    """The settings of one evaluation; see `python -m bvjax evaluate --help`.

    suite: None for all that can be measured with the weights that are there.
    devices: None for all of this machine. shard: None for this process's place among those of
    `jax.distributed`, or (0, 1).
    """

    videos: pathlib.Path
    weights_folder: pathlib.Path
    out: pathlib.Path | None = None
    name: str | None = None
    suite: str | None = None
    metrics: tuple[str, ...] = ()
    weights: str = "linear"
    prompts: pathlib.Path | None = None
    options: Options = Options()
    devices: int | None = None
    shard: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of an evaluation: lines to print, sentences about failures, and pending scores.

    results: the content of results.json; empty while scores of other shards are `pending`. path: its
    folder.
    """

    lines: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    results: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    path: pathlib.Path = pathlib.Path()


def check(request: Request) -> list[MetricEntry]:
    """The metrics that will be measured.

    Raises `UserError` for whatever can be seen to be wrong before a video is decoded: unknown
    names, numbers out of range, weights that are not there, no videos.
    """
    options = request.options
    if options.segments < 2:
        raise UserError(f"`chunks` is {options.segments}; it must be at least 2")
    if options.batch < 1:
        raise UserError(f"`batch` is {options.batch}; it must be at least 1")
    if options.flow not in flow.METHODS:
        raise UserError(f"the flow is {options.flow!r}; it can be {', '.join(flow.METHODS)}")
    if options.subject not in identity.ENCODERS:
        raise UserError(
            f"the subject encoder is {options.subject!r}; it can be {', '.join(identity.ENCODERS)}"
        )
    if not options.static > 0:
        raise UserError(f"`static` is {options.static:g} pixels; it must be above 0")
    if not drift_weights(options.segments, request.weights).any():
        raise UserError("log weights of 2 chunks are all 0; use linear ones, or more chunks")
    find_videos(request.videos)
    entries = choose(request.suite or "all", request.metrics)
    if request.suite is None:
        has_weights = lambda e: all(
            weights.present(w, request.weights_folder) for w in e.required_weights(options)
        )
        available = [e for e in entries if e.suite == "paper" or has_weights(e)]
        # A metric that is asked for by its name is measured, in one suite at least.
        entries = [e for e in entries if e in available or e.key not in {f.key for f in available}]
        entries = entries if request.metrics else available
    weights.check_present(_weight_names(entries, options), request.weights_folder)
    return entries


def evaluate(request: Request, progress: runner.ProgressReporter) -> Outcome:
    """Measures what is missing and writes the results; raises `UserError` as `check` does.

    OUT/results.json, results.csv, summary.csv, table.md, report.html, and what VBench's scripts
    read (only where metrics of the suite official were measured).
    """
    entries = check(request)
    videos_path = request.videos.resolve()
    name = shown(request.name or (videos_path.stem if videos_path.is_file() else videos_path.name))
    out = request.out or pathlib.Path("runs/evaluation") / name
    loaded_prompts = prompts.load(request.prompts) if request.prompts else None
    store = Store(out)
    weight_names = _weight_names(entries, request.options)
    hashes = {w: weights.sha256(w, request.weights_folder) for w in weight_names}
    context = MetricContext(
        options=request.options,
        layout=_data_layout(request.devices),
        load=lambda name: weights.load(name, request.weights_folder),
    )
    job = runner.MeasurementJob(
        videos=request.videos,
        store=store,
        metrics=[entry.make(context) for entry in entries],
        segments=request.options.segments,
        weights={
            e.name: {w: hashes[w] for w in e.required_weights(request.options)} for e in entries
        },
        shard=request.shard or (jax.process_index(), jax.process_count()),
    )
    store.check()
    failed = runner.measure(job, progress)
    measured_videos, pending = runner.collect(job)
    if pending:
        failures = tuple(
            f"{name}: {reason}" for name, reasons in failed.items() for reason in reasons
        )
        return Outcome(failures=failures, pending=tuple(pending), path=out)
    content = results.build(
        config=_config(request, job, name),
        provenance=_provenance(request, hashes, context.layout, loaded_prompts),
        entries=entries,
        measured_videos=measured_videos,
        prompts=loaded_prompts,
    )
    pictures = {
        m.name: store.pictures(m.video, job.segments)
        for m in measured_videos
        if m.video is not None
    }
    files = _write(out, content, pictures)
    failures = tuple(sentence for m in measured_videos for sentence in m.failures)
    lines = (*table.text(content), "", *map(str, files))
    return Outcome(lines, failures, results=content, path=out)


def evaluate_videos(
    videos: str | pathlib.Path,
    *,
    out: str | pathlib.Path | None = None,
    name: str | None = None,
    suite: str | None = None,
    metrics: Sequence[str] = (),
    chunks: int = 10,
    weights: str = "linear",
    prompts: str | pathlib.Path | None = None,
    weights_dir: str | pathlib.Path | None = None,
    flow: str = "dis",
    static: float = 1.0,
    subject: str = "histogram",
    aesthetic: str = "handmade",
    batch: int = 8,
    devices: int | None = None,
    shard: tuple[int, int] | None = None,
    progress: runner.ProgressReporter | None = None,
) -> Outcome:
    """Measures how videos drift (VDE) and how good they are: `bvjax.evaluate`.

    Args:
        videos: a folder, searched with all below it, or one file.
        out: folder for results, by default runs/evaluation/NAME; what is measured there already is
            not measured again.
        name: what made the videos, for tables; by default the folder's.
        suite: "official", "paper" or "all"; None takes what has its weights.
        metrics: only these.
        chunks: equal parts of a video.
        weights: of VDE: "linear" or "log".
        prompts: a file of what the videos show.
        weights_dir: where converted metric networks are.
        flow, static, subject, aesthetic, batch: see `metric.Options`.
        devices: how many share the work; None for all of this machine.
        shard: (i, n): every n-th video from the i-th on, in one of n processes that share `out`.

    Returns:
        `.results` (the content of results.json), `.failures`, `.path`, `.lines` (a table).

    Raises `UserError` as `check` does, before a video is decoded.
    """
    request = Request(
        videos=pathlib.Path(videos),
        out=None if out is None else pathlib.Path(out),
        name=name,
        suite=suite,
        metrics=tuple(metrics),
        weights=weights,
        weights_folder=default_folder() if weights_dir is None else pathlib.Path(weights_dir),
        prompts=None if prompts is None else pathlib.Path(prompts),
        options=Options(chunks, flow, static, subject, aesthetic, batch),
        devices=devices,
        shard=shard,
    )
    return evaluate(request, runner.NullProgress() if progress is None else progress)


def _write(
    out: pathlib.Path, content: Mapping[str, Any], pictures: Mapping[str, Any]
) -> list[pathlib.Path]:
    """All files of a finished evaluation, in the order in which a person would look at them."""
    text = {
        "report.html": page.html(content, pictures),
        "table.md": "\n".join(table.markdown([content])) + "\n",
        "results.csv": csv_file.long_csv(content),
        "summary.csv": csv_file.wide_csv(content),
    }
    for file, body in text.items():
        write_atomic(out / file, body.encode())
    write_json(out / "results.json", content)
    files = [out / file for file in ("report.html", "table.md", "results.json", *list(text)[2:])]
    for old in out.glob("vbench_*.json"):  # of other metrics than these
        old.unlink()
    for file, body in vbench_file.files(content, "vbench").items():
        write_json(out / file, body)
        files.append(out / file)
    return files


def _weight_names(entries: list[MetricEntry], options: Options) -> list[str]:
    return list(dict.fromkeys(w for entry in entries for w in entry.required_weights(options)))


def _data_layout(devices: int | None) -> Layout:
    """A mesh of this process's devices along `data`; none for a single device."""
    local_devices = jax.local_devices()
    if devices is not None and devices > len(local_devices):
        raise UserError(f"the mesh wants data={devices}; there are {len(local_devices)} devices")
    local_devices = local_devices[:devices]
    return (
        Layout()
        if len(local_devices) == 1
        else make_layout({"data": len(local_devices)}, local_devices)
    )


def _config(request: Request, job: runner.MeasurementJob, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "suite": request.suite or "all that has its weights",
        **dataclasses.asdict(request.options),
        "weights": request.weights,
        "metrics": {metric.name: dict(metric.settings) for metric in job.metrics},
    }


def _provenance(
    request: Request,
    hashes: Mapping[str, str],
    layout: Layout,
    loaded_prompts: prompts.Prompts | None,
) -> dict[str, Any]:
    libraries = {name: ".".join(map(str, v)) for name, v in av.library_versions.items()}
    return {
        **versions(),
        "devices": layout.size("data"),
        "decoder": f"PyAV {av.__version__}, libavcodec {libraries.get('libavcodec', 'unknown')}",
        "weights": dict(hashes),
        "prompts": loaded_prompts.sha256 if loaded_prompts else None,
        "videos": str(request.videos),
    }
