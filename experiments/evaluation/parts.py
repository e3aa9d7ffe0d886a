"""The parts of an evaluation: what each needs, what it runs, and how it stops and goes on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bvjax.errors import UserError
from bvjax.memory.rules import RULES
from bvjax.versions import versions
from data_pipelines.storyworld import make_story
from experiments.evaluation import (
    captions,
    drift,
    memory,
    memory_scores,
    minutes,
    noise,
    pictures,
    reconstruction,
    switches,
)
from experiments.evaluation.cases import Case, find_cases, story_cases
from experiments.evaluation.judge import Judge, load_judge
from experiments.evaluation.judge_data import accuracy, heldout_units, score_unit
from experiments.evaluation.results import Record, Results
from experiments.evaluation.under_test import SPLIT, EncodedStories, UnderTest

PARTS = (
    "reconstruction",
    "judge",
    "pictures",
    "captions",
    "memory",
    "minutes",
    "drift",
    "noise",
    "switches",
)
PICTURES_AT_ONCE = 32
MINUTE_ARMS = tuple(RULES)
DRIFT_ARMS = ("semantic", "rolling", "full")


@dataclasses.dataclass(frozen=True)
class Amounts:
    """Amounts to measure: more can be asked for later, on top of what there is."""

    stories: int = 128  # of captions; an eighth of it of reconstruction; of the judge
    cases: int = 128  # subjects that return, per arm
    minutes: int = 12  # whole stories per arm


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Everything the parts share."""

    tested: UnderTest
    judge_file: Path
    results: Results
    cache: Path | None
    amounts: Amounts
    first_seed: int
    seed: int
    batch: int
    arms: tuple[memory.Arm, ...]  # of protocol (a)
    kinds: tuple[str, ...]  # arms of whole minutes, as far as a part has them
    overrides: tuple[str, ...]
    command: str

    def run(self, part: str) -> None:
        """Runs one of PARTS and writes its summary; raises `UserError`."""
        if part not in PARTS:
            raise UserError(f"there is no part {part!r}; the parts are {', '.join(PARTS)}")
        started = time.perf_counter()
        result = getattr(self, part)()
        provenance = {
            **versions(),
            "command": self.command,
            "made": time.strftime("%Y-%m-%d %H:%M:%S"),
            "minutes_of_last_run": round((time.perf_counter() - started) / 60, 1),
        }
        self.results.finish(part, result, provenance)

    # ---- what the parts share ------------------------------------------------------------------
    @functools.cached_property
    def loaded_judge(self) -> Judge:
        return load_judge(self.judge_file)

    @functools.cached_property
    def stories(self) -> EncodedStories:
        return EncodedStories(self.tested, self.cache)

    def records(self, part: str) -> dict[str, Record]:
        """The part's records, tied to the weights and settings that matter to it."""
        everything = part not in ("reconstruction", "judge")
        files = (
            self.tested.sha256
            if everything
            else {
                name: value for name, value in self.tested.sha256.items() if name.startswith("vae")
            }
        )
        fingerprint: dict[str, Any] = {
            "weights": files,
            "overrides": list(self.overrides),
            "first_seed": self.first_seed,
            "seed": self.seed,
        }
        if part != "reconstruction":
            fingerprint["judge"] = hashlib.sha256(self.judge_file.read_bytes()).hexdigest()
        return self.results.records(part, fingerprint)

    def each(self, numbers: Iterable[Any], what: str) -> Iterable[Any]:
        return tqdm(numbers, desc=what, dynamic_ncols=True)

    # ---- the parts -----------------------------------------------------------------------------
    def reconstruction(self) -> dict[str, Any]:
        records, count = self.records("reconstruction"), max(1, self.amounts.stories // 8)
        for seed in self.each(range(self.first_seed, self.first_seed + count), "reconstruction"):
            if str(seed) not in records:
                records[str(seed)] = reconstruction.measure_story(self.tested, seed)
                self.results.save()
        return reconstruction.summary(records)

    def judge(self) -> dict[str, Any]:
        """Accuracy of the judge on stories that neither training nor the other parts use."""
        self.tested.need("vae")
        judge, records = self.loaded_judge, self.records("judge")
        model, params = self.tested.model, self.tested.params["vae"]
        for number in self.each(range(self.amounts.stories), "judge"):
            if str(number) not in records:
                units = heldout_units(number, model)
                scored = [score_unit(judge, unit, model, params) for unit in units]
                records[str(number)] = {"units": scored}
                self.results.save()
        return accuracy([unit for record in records.values() for unit in record["units"]])

    def pictures(self) -> dict[str, Any]:
        judge, records = self.loaded_judge, self.records("pictures")
        seeds = range(self.first_seed, self.first_seed + self.amounts.stories)
        missing = [seed for seed in seeds if str(seed) not in records]
        for start in self.each(range(0, len(missing), PICTURES_AT_ONCE), "pictures"):
            found = {
                seed: pictures.asked(seed, self.tested)
                for seed in missing[start : start + PICTURES_AT_ONCE]
            }
            items = {seed: item for seed, item in found.items() if item is not None}
            frames = pictures.generate(self.tested, [*items.values()], self.seed + start)
            made = pictures.judge_pictures(judge, [*items.values()], frames)
            records.update(zip(map(str, items), made, strict=True))
            self.results.save()
        return captions.summary(records)

    def captions(self) -> dict[str, Any]:
        judge, records = self.loaded_judge, self.records("captions")
        seeds = range(self.first_seed, self.first_seed + self.amounts.stories)
        for seed in self.each(seeds, "captions"):
            if str(seed) in records:
                continue
            record = captions.first_chunk(self.tested, judge, seed, self.seed + seed)
            if record is not None:
                records[str(seed)] = record
                self.results.save()
        return captions.summary(records)

    def memory(self) -> dict[str, Any]:
        judge, records = self.loaded_judge, self.records("memory")
        all_cases = find_cases(self.first_seed, self.amounts.cases, self.tested.model)
        cases = list(self.each(all_cases, "cases"))
        self.tested.need("dit", "vae", "text")
        memory.measure(
            memory.ReturnChunks(self.tested.model, self.tested.null_text),
            self.tested,
            self.stories,
            judge,
            cases,
            self.arms,
            records,
            self.results,
            batch=self.batch,
            seed=self.seed,
            progress=functools.partial(self.each, what="memory"),
        )
        return memory_scores.summary(cases, records)

    def minutes(self) -> dict[str, Any]:
        records = self._minutes((*MINUTE_ARMS, *minutes.POLICY_ARMS))
        return minutes.summary(self._minute_cases(), records)

    def drift(self) -> dict[str, Any]:
        records = self.records("drift")
        for seed in self.each(self._minute_seeds, "drift of the truth"):
            if f"reconstructed {seed}" in records:
                continue
            frames = self.tested.frames(make_story(seed, SPLIT))
            rebuilt = reconstruction.through_vae(self.tested, frames)
            records[f"rendered {seed}"] = drift.drift_record(frames)
            records[f"reconstructed {seed}"] = drift.drift_record(rebuilt)
            self.results.save()
        self._minutes((*DRIFT_ARMS, *minutes.POLICY_ARMS))
        return drift.summary(records)

    def noise(self) -> dict[str, Any]:
        records = self.records("noise")
        for seed in self._minute_seeds:
            name = f"{noise.TRUTH} | {seed}"
            if name not in records:
                frames = self.tested.frames(make_story(seed, SPLIT))
                records[name] = noise.measure(frames, self.tested.model.chunk.fps)
                self.results.save()
        runs = [(arm, seed) for seed in self._minute_seeds for arm in noise.ARMS]
        tested = {arm: noise.with_noise(self.tested, arm) for arm in noise.ARMS}
        for arm, seed in self.each(runs, "noise"):
            if f"{arm} | {seed}" not in records:
                story = make_story(seed, SPLIT)
                records[f"{arm} | {seed}"] = noise.noise_record(
                    tested[arm], story, self.seed + seed
                )
                self.results.save()
        return noise.summary(records)

    def switches(self) -> dict[str, Any]:
        judge, records = self.loaded_judge, self.records("switches")
        seeds = range(self.first_seed, self.first_seed + self.amounts.cases)
        runs = [(arm, seed) for seed in seeds for arm in (switches.TRUTH, *switches.ARMS)]
        for arm, seed in self.each(runs, "switches"):
            if f"{arm} | {seed}" not in records:
                records[f"{arm} | {seed}"] = switches.record_of(
                    self.tested, judge, seed, arm, self.seed + seed
                )
                self.results.save()
        return switches.summary(records)

    @functools.cached_property
    def _minute_seeds(self) -> list[int]:
        return minutes.chosen_stories(self.first_seed, self.amounts.minutes, self.tested.model)

    def _minute_cases(self) -> list[Case]:
        return [c for seed in self._minute_seeds for c in story_cases(seed, self.tested.model)]

    def _minutes(self, arms: tuple[str, ...]) -> dict[str, Record]:
        """Generates what is missing; a minute is judged and its drift measured in one go."""
        judge, records, drifts = self.loaded_judge, self.records("minutes"), self.records("drift")
        arms = tuple(arm for arm in arms if arm in self.kinds)
        runs = [(arm, seed) for arm in arms for seed in self._minute_seeds]
        for arm, seed in self.each(runs, "minutes"):
            name = f"{arm} {seed}"
            if name in records and name in drifts:
                continue
            record, minute = minutes.minute_record(
                self.tested, judge, seed, arm, self.stories[seed], self.seed + seed
            )
            records[name], drifts[name] = record, drift.drift_record(minute.frames)
            self.results.save()
        return records
