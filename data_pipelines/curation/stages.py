"""The table of stages, in order; a new one is a function and a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bvjax.config import ModelConfig
from bvjax.overrides import to_dict
from data_pipelines.curation import captions, review_rows
from data_pipelines.curation.chunks import chunks, keyframes
from data_pipelines.curation.decisions import motion, quality
from data_pipelines.curation.duplicates import duplicates
from data_pipelines.curation.probe import probe
from data_pipelines.curation.rows import Row, each
from data_pipelines.curation.scenes import scenes
from data_pipelines.curation.settings import Settings
from data_pipelines.curation.takes import takes


@dataclasses.dataclass(frozen=True)
class Context:
    """Inputs of stages beside rows: the settings, the model whose chunks are cut, the output folder."""

    settings: Settings
    model: ModelConfig
    root: Path


Inputs = Callable[[list[Row], Context], Any]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of the rows of one film.

    Args:
        name: of it.
        function: the rows of a film and the context to its rows.
        inputs: all that its result depends on beside the rows, as JSON values: other inputs, and it is done again.
        pool: "processes", "threads" for what waits for a network, or "whole" for what must see all films at once.
        version: raise it when the function changes.
    """

    name: str
    function: Callable[[list[Row], Context], list[Row]]
    inputs: Inputs
    pool: str = "processes"
    version: int = 1


def _section(name: str) -> Inputs:
    return lambda rows, context: to_dict(getattr(context.settings, name))


def _nothing(rows: list[Row], context: Context) -> Any:
    return None


def _chunk_inputs(rows: list[Row], context: Context) -> Any:
    return [to_dict(context.settings.chunks), to_dict(context.model.chunk), context.model.dit.patch,
            context.model.vae.temporal_factor]  # fmt: skip


def probe_rows(rows: list[Row], context: Context) -> list[Row]:
    return each("probe", probe)(rows, None)


def scenes_rows(rows: list[Row], context: Context) -> list[Row]:
    return each("scenes", scenes)(rows, context.settings.scenes)


def takes_rows(rows: list[Row], context: Context) -> list[Row]:
    return each("takes", takes)(rows, context.settings.takes)


def duplicate_rows(rows: list[Row], context: Context) -> list[Row]:
    return duplicates(rows, context.settings.duplicates)


def motion_rows(rows: list[Row], context: Context) -> list[Row]:
    return each("motion", motion)(rows, context.settings.motion)


def quality_rows(rows: list[Row], context: Context) -> list[Row]:
    return each("quality", quality)(rows, context.settings.quality)


def chunk_rows(rows: list[Row], context: Context) -> list[Row]:
    cut = lambda row, settings: chunks(row, settings, context.model)
    return each("chunks", cut)(rows, context.settings.chunks)


def keyframe_rows(rows: list[Row], context: Context) -> list[Row]:
    return keyframes(rows, context.settings.chunks, context.model, context.root)


def caption_rows(rows: list[Row], context: Context) -> list[Row]:
    return captions.caption_rows(rows, context.settings, context.root)


def align_rows(rows: list[Row], context: Context) -> list[Row]:
    return captions.align_rows(rows, context.settings, context.root)


def review_stage_rows(rows: list[Row], context: Context) -> list[Row]:
    return review_rows.apply(rows, context.settings, context.root)


STAGES = (
    Stage("probe", probe_rows, _nothing),
    Stage("scenes", scenes_rows, _section("scenes")),
    Stage("takes", takes_rows, _section("takes")),
    Stage("duplicates", duplicate_rows, _section("duplicates"), pool="whole"),
    Stage("motion", motion_rows, _section("motion")),
    Stage("quality", quality_rows, _section("quality")),
    Stage("chunks", chunk_rows, _chunk_inputs),
    Stage("keyframes", keyframe_rows, _chunk_inputs),
    Stage(
        "captions", caption_rows, lambda rows, c: captions.inputs(rows, c.settings), pool="threads"
    ),
    Stage("align", align_rows, lambda rows, c: captions.align_inputs(c.settings), pool="threads"),
    Stage(
        "review", review_stage_rows, lambda rows, c: review_rows.inputs(rows, c.settings, c.root)
    ),
)
NAMES = tuple(stage.name for stage in STAGES)
