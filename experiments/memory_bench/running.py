"""The work of a run: which records are missing, what they will cost, and how they are made."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

import bvjax
from bvjax import policies
from experiments.evaluation.judge import Judge
from experiments.evaluation.results import Record, Results
from experiments.evaluation.under_test import UnderTest
from experiments.memory_bench.axes import Point
from experiments.memory_bench.cases import Case
from experiments.memory_bench.given import TruePast, check_given, decoded, plain, return_chunk
from experiments.memory_bench.judging import frames_of, record_of
from experiments.memory_bench.whole import whole_video

MODES = ("given", "self")
TRUE = "true chunk"  # in place of settings: the true chunk through the VAE, what a perfect model would score


@dataclasses.dataclass(frozen=True)
class Job:
    """A return to be generated and judged."""

    case: Case
    settings: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.case.key} | {' '.join(self.settings)}"


def jobs_of(points: Iterable[Point], seeds: Iterable[int]) -> list[Job]:
    """The jobs of some points, each once: story by story, so that an interrupted run has measured all points."""
    points = list(points)
    found = [Job(p.condition.case(seed), p.condition.settings) for seed in seeds for p in points]
    return list(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True)
class Bench:
    """Weights, the judge, and where results go."""

    tested: UnderTest
    judge: Judge
    results: Results
    out: Path
    seed: int
    overrides: tuple[str, ...] = ()

    def run(
        self,
        mode: str,
        jobs: Sequence[Job],
        records: dict[str, Record],
        say: Callable[[str], None] = print,
    ) -> None:
        """Makes the records that are missing, saving each; says first what that will cost.

        Raises `UserError` for a model that mode "given" does not measure.
        """
        self.tested.need("dit", "vae", "text")
        if mode == "given":
            check_given(self.tested.model)
        missing = [job for job in jobs if job.name not in records]
        if not missing:
            say(f"mode {mode}: all {len(jobs)} returns are measured")
            return
        say(budget(mode, missing, len(jobs), self._timed(missing[0].case)))
        make = self._given if mode == "given" else self._whole
        with tqdm(total=len(missing), desc=f"returns, {mode}", dynamic_ncols=True) as bar:
            for name, record in make(missing, records):
                records[name] = record
                self.results.save()
                bar.update(not name.endswith(TRUE))

    def _timed(self, case: Case) -> Costs:
        """Times one story and one chunk, without and with compilation."""
        tested = dataclasses.replace(self.tested, model=plain(self.tested.model))
        marks, past = [time.perf_counter()], TruePast(tested, case.story)
        for again in (past, TruePast(tested, case.story), None):
            past = again or past
            latents, _ = return_chunk(past, case, tested.model, self.seed)
            decoded(past, case.chunk, latents)
            marks.append(time.perf_counter())
        first, story, chunk = np.diff(marks).tolist()
        return Costs(max(0.0, first - story), max(0.0, story - chunk), chunk)

    def _given(self, jobs: Sequence[Job], records: dict[str, Record]):
        fps = self.tested.model.chunk.fps
        for (seed, staging), group in itertools.groupby(
            sorted(jobs, key=lambda job: (job.case.seed, str(job.case.staging))),
            key=lambda job: (job.case.seed, job.case.staging),
        ):
            plain = Case(seed, staging)
            past, true = TruePast(self.tested, plain.story), f"{plain.key} | {TRUE}"
            for job in group:
                model = policies.configure(self.tested.model, job.settings)
                latents, lookup = return_chunk(past, job.case, model, self.seed + seed)
                frames = decoded(past, job.case.chunk, latents)
                met = set(job.case.met)
                yield (
                    job.name,
                    {
                        **record_of(self.judge, job.case, fps, frames),
                        "seen": list(lookup.seen),
                        "hit": bool(met & set(lookup.seen)),
                        "kept": bool(met & lookup.kept),
                    },
                )
            if true not in records:
                frames = decoded(past, plain.chunk, past.latents(plain.chunk))
                yield true, record_of(self.judge, plain, fps, frames)

    def _whole(self, jobs: Sequence[Job], records: dict[str, Record]):
        fps = self.tested.model.chunk.fps
        for settings, group in itertools.groupby(
            sorted(jobs, key=lambda job: job.settings), key=lambda job: job.settings
        ):
            overrides = [*self.overrides, *settings]
            pipeline = bvjax.load(self.tested.folder, overrides=overrides)
            for job in group:
                case, seed = job.case, self.seed + job.case.seed
                video = whole_video(pipeline, self.out, settings, case, seed)
                met = frames_of(video.frames, case.met[0], fps)
                returned = frames_of(video.frames, case.chunk, fps)
                seen = [entry.chunk for entry in video.memory[case.chunk - 1].retrieved]
                yield (
                    job.name,
                    {
                        **record_of(self.judge, case, fps, returned, met),
                        "seen": seen,
                        "hit": bool(set(case.met) & set(seen)),
                    },
                )


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds of compilation, of rendering and encoding what one return needs, and of one chunk."""

    compiling: float
    story: float
    chunk: float


def budget(mode: str, missing: Sequence[Job], total: int, costs: Costs) -> str:
    """A sentence about what the missing jobs take."""
    done = (
        f"{total - len(missing)} of {total} returns are measured; " if total > len(missing) else ""
    )
    settings = len({job.settings for job in missing})
    if mode == "given":
        stories = len({(job.case.seed, job.case.staging) for job in missing})
        seconds = stories * costs.story + len(missing) * costs.chunk
        work = f"{len(missing)} chunks to generate, after true chunks of {stories} stories to render and encode"
    else:
        named = {(job.case.seed, job.case.staging, job.settings) for job in missing}
        chunks = sum(staging.returns for _, staging, _ in named)
        chunks += sum(job.case.wording != "name" for job in missing)
        seconds = chunks * costs.chunk
        work = f"{chunks} chunks to generate, in {len(missing)} videos"
    seconds += (settings - 1) * costs.compiling / 3  # other settings share most programs
    minutes = max(1, round(seconds / 60))
    return (
        f"mode {mode}: {done}{work}, with {settings} setting{'s' * (settings > 1)} of the memory to compile for; "
        f"about {minutes} minute{'s' * (minutes > 1)} here ({costs.chunk:.1f} s a chunk)"
    )
