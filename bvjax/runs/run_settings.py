"""config.json and story.json of a run folder: what decides a video, read as if a stranger had written it."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from bvjax.caption_times import LONGEST
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.files import read_json_object
from bvjax.generate.checks import check_model
from bvjax.media.video_io import check_scale
from bvjax.overrides import from_dict, to_dict
from bvjax.plain_text import is_blank
from bvjax.policies import check_cuts
from bvjax.runs.requests import check_seed

_MAX_LISTED = 3  # differences that a message lists


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that, besides story and image, decide the video (`weights` is only where to look)."""

    model: ModelConfig
    seed: int
    scale: int
    weights: str
    weights_sha256: str
    overrides: tuple[str, ...] = ()
    video_chunks: int = 0  # chunks 1 to `video_chunks` are given by a video
    video_sha256: str = ""  # of its frames in given.mkv
    # (chunk id, seed): chunks from that id on were made again with that seed; ids rise.
    rerolls: tuple[tuple[int, int], ...] = ()
    cuts: tuple[int, ...] = ()  # numbers of chunks that begin a shot, ascending, none of them 1
    lora_files: tuple[str, ...] = ()  # where to look
    lora_sha256: tuple[str, ...] = ()
    # (chunk id, a strength for each LoRA): from that chunk on; ids rise from 0.
    lora_strengths: tuple[tuple[int, tuple[float, ...]], ...] = ()

    def seed_of(self, chunk_id: int) -> int:
        """The seed that a chunk is made with."""
        seeds = [seed for first, seed in self.rerolls if first <= chunk_id]
        return seeds[-1] if seeds else self.seed

    def strengths_of(self, chunk_id: int) -> tuple[float, ...]:
        """The strengths of the LoRAs that a chunk is made with."""
        found = [strengths for first, strengths in self.lora_strengths if first <= chunk_id]
        return found[-1] if found else ()

    def with_strengths(self, from_id: int, strengths: tuple[float, ...]) -> Settings:
        """These settings with other strengths of the LoRAs for the chunks from `from_id` on."""
        earlier = tuple(pair for pair in self.lora_strengths if pair[0] < from_id)
        return dataclasses.replace(self, lora_strengths=(*earlier, (from_id, strengths)))

    def with_loras(self, files: tuple[str, ...], sha256: tuple[str, ...]) -> Settings:
        """These settings with further LoRAs behind their own, switched off."""
        if not files:
            return self
        off, strengths = (0.0,) * len(files), self.lora_strengths or ((0, ()),)
        return dataclasses.replace(
            self,
            lora_files=self.lora_files + files,
            lora_sha256=self.lora_sha256 + sha256,
            lora_strengths=tuple((first, own + off) for first, own in strengths),
        )

    def rerolled(self, from_id: int, seed: int) -> Settings:
        """These settings with another seed for the chunks from `from_id` on."""
        earlier = tuple(pair for pair in self.rerolls if pair[0] < from_id)
        return dataclasses.replace(self, rerolls=(*earlier, (from_id, seed)))

    def limited(self, num_chunks: int) -> Settings:
        """These settings for a run of `num_chunks` chunks: without seeds, strengths and cuts past its end."""
        rerolls = tuple(pair for pair in self.rerolls if pair[0] <= num_chunks)
        strengths = tuple(pair for pair in self.lora_strengths if pair[0] <= num_chunks)
        cuts = tuple(number for number in self.cuts if number <= num_chunks)
        return dataclasses.replace(self, rerolls=rerolls, lora_strengths=strengths, cuts=cuts)


def weights_place(folder: pathlib.Path) -> str:
    """The path of a weights folder as config.json keeps it, the same under every locale.

    What is not UTF-8 in it is lost: `--weights` says where the folder is.
    """
    return os.fsencode(folder.absolute()).decode("utf-8", errors="replace")


def weights_folder(place: str) -> pathlib.Path:
    """The folder that `weights_place` noted."""
    return pathlib.Path(os.fsdecode(place.encode()))


def as_json(settings: Settings) -> dict[str, Any]:
    """The content of config.json."""
    return to_dict(settings)


def read_settings(path: pathlib.Path, num_chunks: int) -> Settings:
    """The content of config.json; raises `UserError` for what no run could have been begun with."""
    settings = from_dict(Settings, read_json_object(path))
    check_model(settings.model, num_chunks)
    check_scale(settings.model.chunk.height, settings.model.chunk.width, settings.scale)
    for seed in (settings.seed, *(seed for _, seed in settings.rerolls)):
        check_seed(seed)
    starts = [first for first, _ in settings.rerolls]
    if starts != sorted(set(starts)) or not all(0 <= first <= num_chunks for first in starts):
        raise UserError(f"rerolls begin at chunks {starts}; the run has {num_chunks} chunks")
    if not 0 <= settings.video_chunks < num_chunks:
        raise UserError(
            f"video_chunks is {settings.video_chunks}; with {num_chunks} chunks it can be 0 to "
            f"{num_chunks - 1}"
        )
    for name, place in (("weights", settings.weights), *_named("lora_files", settings.lora_files)):
        if "\0" in place:
            raise UserError(f"{name} is not a path: it has a character of code 0 in it")
    _check_loras(settings, num_chunks)
    cuts = settings.cuts
    if list(cuts) != sorted(set(cuts)) or not all(2 <= number <= num_chunks for number in cuts):
        raise UserError(
            f"cuts is {list(cuts)}; with {num_chunks} chunks it can have 2 to {num_chunks}"
        )
    check_cuts(settings.model, cuts)
    return settings


def _named(name: str, values: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, value) for value in values]


def _check_loras(settings: Settings, num_chunks: int) -> None:
    """Raises `UserError` for LoRAs that no run could have."""
    count, starts = len(settings.lora_files), [first for first, _ in settings.lora_strengths]
    if len(settings.lora_sha256) != count:
        raise UserError(f"there are {count} lora_files and {len(settings.lora_sha256)} lora_sha256")
    ascend = starts == sorted(set(starts)) and all(0 <= first <= num_chunks for first in starts)
    if not ascend or starts[:1] != [0] * bool(count):
        raise UserError(
            f"lora_strengths begin at chunks {starts}; they must rise from 0, and the run has {num_chunks} chunks"
        )
    for first, strengths in settings.lora_strengths:
        if len(strengths) != count or not all(map(math.isfinite, strengths)):
            raise UserError(
                f"lora_strengths from chunk {first} on are {list(strengths)}; there must be {count} finite numbers"
            )


def read_story(path: pathlib.Path) -> tuple[tuple[str, ...], str]:
    """(captions, title) of story.json; raises `UserError`."""
    stored = read_json_object(path)
    captions, title = stored.get("captions"), stored.get("title")
    if not isinstance(title, str):
        raise UserError(f"the title in {path} is not text")
    if not isinstance(captions, list) or not captions:
        raise UserError(f"{path} has no list of captions")
    if len(captions) > LONGEST:
        raise UserError(f"{path} has {len(captions)} captions; it can have 1 to {LONGEST}")
    for number, caption in enumerate(captions, start=1):
        if not isinstance(caption, str) or is_blank(caption):
            raise UserError(f"caption {number} in {path} is not a sentence")
    return tuple(captions), title


def differences(
    stored: tuple[Settings, Sequence[str]], requested: tuple[Settings, Sequence[str]]
) -> list[str]:
    """Lists the settings that decide the video and differ between two runs, in a few words each."""
    phrases = list(_unlike_settings(stored[0], requested[0]))
    old, new = stored[1], requested[1]
    if len(old) != len(new):
        phrases.append(f"it has {len(old)} chunks, not {len(new)}")
    phrases += [
        f"caption {number} is another"
        for number, (before, after) in enumerate(zip(old, new, strict=False), start=1)
        if before != after
    ]
    return phrases


def listed(phrases: Sequence[str]) -> str:
    """The first differences of a list in one phrase, and how many more there are."""
    more = len(phrases) - _MAX_LISTED
    return ", ".join(phrases[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _unlike_settings(stored: Settings, requested: Settings) -> Iterator[str]:
    if stored.weights_sha256 != requested.weights_sha256:
        yield "its weights are others"
    if stored.seed != requested.seed:
        yield f"its seed is {stored.seed}, not {requested.seed}"
    if stored.cuts != requested.cuts:
        yield f"its shots begin at chunks {list(stored.cuts)}, not {list(requested.cuts)}"
    if stored.lora_sha256 != requested.lora_sha256:
        yield "its LoRAs are others"
    elif stored.lora_strengths != requested.lora_strengths:
        yield "the strengths of its LoRAs are others"
    if stored.rerolls != requested.rerolls:
        yield "chunks of it were made again with another seed"
    if (
        stored.video_sha256 != requested.video_sha256
        or stored.video_chunks != requested.video_chunks
    ):
        if not stored.video_chunks or not requested.video_chunks:
            yield f"it goes on from {'a' if stored.video_chunks else 'no'} video"
        elif stored.video_chunks != requested.video_chunks:
            yield f"a video gives {stored.video_chunks} of its chunks, not {requested.video_chunks}"
        else:
            yield "the frames of its video are others"
    old, new = (dict(_leaves(to_dict(s.model))) for s in (stored, requested))
    for key in old:
        if old[key] != new[key]:
            yield f"its {key} is {old[key]}, not {new[key]}"


def _leaves(section: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value
