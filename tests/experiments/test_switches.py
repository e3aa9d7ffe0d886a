"""The measurement of changes of captions: its cases, the action it sees in rendered chunks, and what its arms are."""

from __future__ import annotations

import types

import numpy as np
import pytest

from bvjax.presets import get_preset
from data_pipelines.storyworld import chunk_frames, mentions, num_frames, render, truth
from experiments.evaluation import switches

MODEL = get_preset("mini")


def frames_of(story, frames=None):
    indices = range(num_frames(story, 8)) if frames is None else frames
    return render(story, indices, height=64, width=64, fps=8)


TESTED = types.SimpleNamespace(model=MODEL, frames=frames_of, need=lambda *parts: None,
                               params={"dit": None, "vae": None}, tokenizer=None)  # fmt: skip


def test_cases_say_who_once_and_show_it_alone():
    assert switches.case_of(1000) == switches.case_of(1000)
    for seed in range(1000, 1006):
        case = switches.case_of(seed)
        (subject,) = case.story.subjects
        first, second = mentions(case.prompts[0]), mentions(case.prompts[2])
        assert case.prompts[0] == case.prompts[1] and case.prompts[2] == case.prompts[3]
        assert first["names"] == second["names"] == {subject.name}
        assert first["species"] == {subject.species} and not second["species"]
        assert case.old != case.new
        assert truth(case.story, range(1, 129, 8)).visible.all()


def test_actions_are_recognised_where_they_are_drawn():
    """Also to the side of where they were rendered."""
    for seed in (1000, 1001, 1002):
        case = switches.case_of(seed)
        models, frames = switches.rendered_movements(TESTED, case.story), frames_of(case.story)
        for chunk, want in ((2, case.old), (4, case.new)):
            span = chunk_frames(chunk)
            shown = frames[span.start : span.stop]
            assert switches.recognise(shown, models) == want
            assert switches.recognise(np.roll(shown, 9, axis=2), models) == want


@pytest.mark.parametrize("arm", switches.ARMS)
def test_each_arm_generates_with_its_change(arm, monkeypatch):
    seen = []

    def pieces(params, model, conditions, key):
        seen.append((model.prompt, conditions))
        yield types.SimpleNamespace(latents=None)

    monkeypatch.setattr(switches, "stream", pieces)
    monkeypatch.setattr(
        switches, "encode_captions", lambda load, text, tokenizer, prompts, negative: prompts
    )
    monkeypatch.setattr(
        switches, "decode_piece", lambda *_: (None, np.zeros((1, 8, 8, 3), np.uint8))
    )
    case = switches.case_of(1000)
    switches.generate(TESTED, case, arm, 0)
    assert seen == [(switches.ARMS[arm], case.prompts)]
    assert switches.ARMS[arm].change == arm


def test_rates_by_arm():
    part = lambda new, same: {"new": new, "old": not new, "same": same}
    record = lambda new, seam: {
        "at the switch": part(new, True), "one chunk later": part(True, new), "before": True, "seam": seam,
    }  # fmt: skip
    found = switches.summary({"hard | 1": record(True, 1.0), "hard | 2": record(False, 3.0)})[
        "hard"
    ]
    assert found["new, at the switch"]["rate"] == 0.5 and found["new, at the switch"]["n"] == 2
    assert (
        found["new, one chunk later"]["rate"] == 1.0
        and found["same, one chunk later"]["rate"] == 0.5
    )
    assert found["seam"]["mean"] == 2.0
