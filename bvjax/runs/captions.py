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

    def __init__(self, run_cache: Mapping[str, CaptionStates], shared_cache: TextCache):
        self._run_cache, self._shared_cache = run_cache, shared_cache

    def load(self, caption: str) -> CaptionStates | None:
        return self._run_cache.get(caption) or self._shared_cache.load(caption)

    def save(self, caption: str, encoded: CaptionStates) -> None:
        self._shared_cache.save(caption, encoded)


def run_conditions(run: RunDir, bundle: Bundle, captions: Sequence[str]) -> tuple[Conditions, bool]:
    """(encoded captions, whether they are others than those on disk).

    States that the run has on disk are kept bit-exact.

    Raises `UserError` for a caption that is too long, `WorkError` for states that are not finite.
    """
    model, captions = run.settings.model, tuple(captions)
    check_lengths(bundle.tokenizer, numbered(captions), model.text, model.guidance.negative)
    stored = run.load_conditions()
    if stored is not None and stored[0] == captions:
        return stored[1], False
    run_cache = {}
    if stored is not None:
        run_cache = {
            caption: CaptionStates(np.asarray(text), np.asarray(embedding))
            for caption, (text, embedding) in zip(stored[0], stored[1].each(), strict=True)
        }
    conditions = encode_captions(
        lambda: bundle.load_text(model.text),
        model.text,
        bundle.tokenizer,
        captions,
        model.guidance.negative,
        _RunFirst(run_cache, bundle.text_cache(model.text)),
    )
    if stored is not None:
        conditions = dataclasses.replace(conditions, null_text=stored[1].null_text)
    check_text_states(model, conditions, range(1, len(captions) + 1))
    return conditions, True
