"""Mode "self": whole videos from the model's own past, in run folders that show how they were made.

OUT/runs/SETTINGS/CASE is a run folder of `bvjax generate`. Cases that differ in the last caption share the past on disk.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from bvjax.runs.pipeline import Pipeline
from bvjax.runs.video import Video
from data_pipelines.storyworld.cuts import as_json
from experiments.memory_bench.cases import Case


def run_folder(out: Path, settings: tuple[str, ...], case: Case) -> Path:
    return out / "runs" / (",".join(settings) or "default") / case.key


def whole_video(
    pipeline: Pipeline, out: Path, settings: tuple[str, ...], case: Case, seed: int
) -> Video:
    """The video of a case; what of it is on disk already is read, or gone on with."""
    path = run_folder(out, settings, case)
    if case.wording == "name":
        return pipeline.generate(as_json(case.story), out=path, seed=seed)
    if (path / "config.json").is_file():
        return pipeline.resume(path)
    shutil.rmtree(path, ignore_errors=True)  # of an attempt that was stopped before it was a run
    shared = dataclasses.replace(case, wording="name")
    whole_video(pipeline, out, settings, shared, seed)
    return pipeline.branch(
        run_folder(out, settings, shared), path, case.chunk, case.story.captions[-1:]
    )
