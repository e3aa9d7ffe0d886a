"""Cases: staged stories (`data_pipelines.storyworld.staged`), and what is asked of the chunk in which somebody returns.

A case is a function of its numbers alone, so that the manifest of a folder of stories can be checked against it.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bvjax.errors import UserError
from bvjax.files import read_json, read_json_object, write_json
from data_pipelines.storyworld import COLOURS, PLACES, SPECIES, Story
from data_pipelines.storyworld.cuts import as_json
from data_pipelines.storyworld.staged import WORDINGS, Staging, staged_story
from data_pipelines.storyworld.world import CHUNK_SECONDS

VERSION = 1  # of the stories: raised when any of them changes
MANIFEST = "cases.json"
WHO = 1  # index of the subject that returns
_KEY = re.compile(r"gap(\d{1,4})-subjects(\d)-places(\d)-([a-z]+)-(\d{1,6})")


@dataclasses.dataclass(frozen=True)
class Case:
    """One return; chunks count from 1."""

    seed: int
    staging: Staging = Staging()
    wording: str = "name"  # of the returning caption

    @property
    def key(self) -> str:
        s = self.staging
        return (
            f"gap{s.gap:03d}-subjects{s.subjects}-places{s.places}-{self.wording}-{self.seed:04d}"
        )

    @property
    def chunk(self) -> int:
        """The chunk of the return, the last."""
        return self.staging.returns

    @property
    def met(self) -> range:
        """The chunks that introduce who returns."""
        return self.staging.met

    @functools.cached_property
    def story(self) -> Story:
        return staged_story(self.seed, self.staging, self.wording)

    @property
    def place(self) -> int | None:
        """Index of the place that returns; None where the story never leaves it."""
        return WHO if self.staging.places > 1 else None

    @property
    def truth(self) -> dict[str, int]:
        """The right labels: species, colour and, where it returns, place."""
        subject = self.story.subjects[WHO]
        labels = {
            "species": SPECIES.index(subject.species),
            "colour": COLOURS.index(subject.colour),
        }
        if self.place is not None:
            labels["place"] = PLACES.index(self.story.places[self.place].kind)
        return labels

    def as_json(self) -> dict[str, Any]:
        """The entry of the manifest."""
        subject = self.story.subjects[WHO]
        asked: dict[str, Any] = {
            "subject": {
                "name": subject.name,
                "species": subject.species,
                "colour": subject.colour,
            }
        }
        if self.place is not None:
            place = self.story.places[self.place]
            asked["place"] = {"toponym": place.toponym, "kind": place.kind}
        return {
            "id": self.key,
            "story": f"stories/{self.key}.json",
            "video": f"{self.key}.mp4",
            "seconds": int(self.chunk * CHUNK_SECONDS),
            "introduced": list(self.met),
            "returns": self.chunk,
            **dataclasses.asdict(self.staging),
            "wording": self.wording,
            "seed": self.seed,
            "asked": asked,
        }


def case_of(key: str) -> Case:
    """The case with a key; raises `UserError` where there is none."""
    match = _KEY.fullmatch(key)
    if match is None or match[4] not in WORDINGS:
        raise UserError(f"there is no case {key!r}")
    gap, subjects, places, seed = (int(match[i]) for i in (1, 2, 3, 5))
    case = Case(seed, Staging(gap, subjects, places), match[4])
    if case.key != key:
        raise UserError(f"there is no case {key!r}")
    return case


def write_cases(out: Path, cases: Iterable[Case]) -> Path:
    """Writes stories, as `bvjax generate` reads them, and the manifest; returns the manifest's path."""
    entries = [case.as_json() for case in cases]
    (out / "stories").mkdir(parents=True, exist_ok=True)
    for entry in entries:
        write_json(out / entry["story"], as_json(case_of(entry["id"]).story))
    write_json(out / MANIFEST, {"memory_bench": VERSION, "cases": entries})
    return out / MANIFEST


def read_cases(folder: Path) -> list[Case]:
    """The cases of a folder that `write_cases` wrote.

    Raises `UserError` for another version, and where the manifest or a story is not what this version writes.
    """
    path = folder / MANIFEST
    content = read_json_object(path)
    version, entries = content.get("memory_bench"), content.get("cases")
    if version != VERSION:
        raise UserError(f"{path} is of version {version!r} of the benchmark; this is {VERSION}")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} has no cases")
    cases = []
    for number, entry in enumerate(entries, start=1):
        key = entry.get("id") if isinstance(entry, Mapping) else None
        if not isinstance(key, str):
            raise UserError(f"{path}: case {number} has no id")
        try:
            case = case_of(key)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        if entry != case.as_json():
            raise UserError(f"{path}: case {key} is not what version {VERSION} asks")
        if read_json(folder / entry["story"], "the story") != as_json(case.story):
            raise UserError(f"{folder / entry['story']} is not the story of case {key}")
        cases.append(case)
    return cases
