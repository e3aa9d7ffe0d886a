"""Checks of a finished chunk: its text states, latents, memory entry and frames must be finite."""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.types import ChunkReport
from bvjax.errors import UserError, WorkError
from bvjax.finite import is_finite
from bvjax.generate.conditions import Conditions


def chunk_name(number: int) -> str:
    """The name of chunk `number` in messages, 0 being the anchor."""
    return f"chunk {number}" if number else "the first frame"


def finished_chunks(path: pathlib.Path, grid: ChunkGrid, ids: Collection[int]) -> int:
    """Counts the latents `ids` that are those of a chunk, the anchor excluded.

    Raises `UserError` when there is none in the run folder `path`.
    """
    count = sum(chunk_id in grid.chunk_ids for chunk_id in ids)
    if not count:
        raise UserError(f"the run {path} has no finished chunk yet; resume it first")
    return count


def check_chunk(
    model: ModelConfig,
    number: int,
    latents: Float[np.ndarray, "l h w z"],
    report: ChunkReport | None,
    frames_finite: bool,
) -> None:
    """Raises `WorkError` that names the chunk and the first of its parts that is not finite.

    Waits for the report and the frames.
    """
    entry_finite = report is None or bool(report.finite)
    for part, section, finite in (
        ("latents", "dit", is_finite(latents)),
        ("memory entry", "dit", entry_finite),
        ("frames", "vae", frames_finite),
    ):
        if not finite:
            raise not_finite(chunk_name(number), part, section, model)


def check_text_states(model: ModelConfig, conditions: Conditions, numbers: Sequence[int]) -> None:
    """Raises `WorkError` that names the first chunk whose caption's states are not finite.

    `numbers` are the chunks of the rows of `conditions`, checked before its negative prompt.
    """
    names = [*map(chunk_name, numbers), "the negative prompt"]
    for owner, states in zip(names, [*conditions.text, *conditions.null_text], strict=True):
        if not is_finite(states):
            raise not_finite(owner, "text states", "text", model)


def not_finite(owner: str, part: str, section: str, model: ModelConfig) -> WorkError:
    """The one sentence about a part that `section` of the model made, with what to do about it."""
    dtype = getattr(model, section).dtype
    advice = "check the weights"
    if dtype == "float16":
        advice = (
            f"numbers above 65504 overflow in {section}.dtype float16: take bfloat16 or float32"
        )
    return WorkError(
        f"{owner} failed: values of its {part} are not finite, and nothing of it is saved; {advice}"
    )
