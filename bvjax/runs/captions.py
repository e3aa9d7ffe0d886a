"""Text states of a run's captions: those on disk are kept, only new captions are encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from bvjax.generate.conditions import (
    CaptionStates,
    Conditions,
    check_lengths,
    encode_captions,
    numbered,
)
from bvjax.loading.bundle import Bundle
from bvjax.loading.text_cache import TextCache
from bvjax.runs.finished import check_text_states
from bvjax.runs.run_dir import RunDir


class _RunFirst:
    """The captions of a run, then those kept between runs: a `Cache` of `encode_captions`."""

    def __init__(self, of_run: Mapping[str, CaptionStates], between_runs: TextCache):
        self._of_run, self._between_runs = of_run, between_runs

    def load(self, caption: str) -> CaptionStates | None:
        return self._of_run.get(caption) or self._between_runs.load(caption)

    def save(self, caption: str, made: CaptionStates) -> None:
        self._between_runs.save(caption, made)


def run_conditions(run: RunDir, bundle: Bundle, captions: Sequence[str]) -> tuple[Conditions, bool]:
    """(encoded captions, whether they are others than those on disk).

    What the run has on disk is kept to the bit.

    Raises `UserError` for a caption that is too long, `WorkError` for states that are not finite.
    """
    model, captions = run.settings.model, tuple(captions)
    check_lengths(bundle.tokenizer, numbered(captions), model.text, model.guidance.negative)
    stored = run.load_conditions()
    if stored is not None and stored[0] == captions:
        return stored[1], False
    of_run = {}
    if stored is not None:
        of_run = {
            caption: CaptionStates(np.asarray(text), np.asarray(embedding))
            for caption, (text, embedding) in zip(stored[0], stored[1].each(), strict=True)
        }
    made = encode_captions(
        lambda: bundle.load_text(model.text), model.text, bundle.tokenizer, captions,
        model.guidance.negative, _RunFirst(of_run, bundle.text_cache(model.text)),
    )  # fmt: skip
    if stored is not None:
        made = dataclasses.replace(made, null_text=stored[1].null_text)
    check_text_states(model, made, range(1, len(captions) + 1))
    return made, True
