"""Each metric moves where its defect begins, and stays put before it and without it."""

import numpy as np
import pytest

from bvjax.lvbench import suites
from tests.bvjax.lvbench.paper import scenes

STILL, PAN = (0.0, 0.0), (1.0, 0.5)
CASES = {  # defect, camera: the scores that must change, by at least so much of m_1
    ("blur", STILL): {"clarity": 0.5, "aesthetic": 0.05},
    ("fade", STILL): {"aesthetic": 0.05},
    ("freeze", PAN): {"motion": 0.9, "motion_smoothness": 0.01},
    ("jitter", PAN): {"motion": 0.5, "motion_smoothness": 0.02},
    ("swap", STILL): {"subject": 0.3},
    ("melt", STILL): {"background": 0.3, "background_compensated": 0.3},
    ("melt", PAN): {"background_compensated": 0.3},
}


@pytest.fixture(scope="module")
def metrics():
    return [entry.make(scenes.context()) for entry in suites.choose("paper")]


@pytest.mark.parametrize(("defect", "camera"), CASES)
def test_the_defect_shows_where_it_begins(metrics, defect, camera):
    scores = scenes.measure(metrics, scenes.clip(defect, camera))
    for key, least in CASES[defect, camera].items():
        before, after = scenes.drifts(scores[f"paper/{key}"].chunks)
        assert after.min() > max(least, 5 * before.max()), (key, before, after)


@pytest.mark.parametrize("camera", [STILL, PAN])
def test_nothing_moves_without_a_defect(metrics, camera):
    """By less than a third of what the defects' tests ask for, so none passes without its defect."""
    scores = scenes.measure(metrics, scenes.clip("", camera))
    for (_, of), asked in CASES.items():
        for key, least in asked.items():
            if of == camera:
                before, after = scenes.drifts(scores[f"paper/{key}"].chunks)
                assert max(*before, *after) < least / 3, (key, before, after)


def test_a_moving_camera_leaves_no_still_background(metrics):
    """Eq. 24 as it stands has nothing to divide by; compensated, all of it is still."""
    scores = scenes.measure(metrics, scenes.clip("", PAN))
    assert max(scores["paper/background"].chunks) < 0.05
    assert min(scores["paper/background_compensated"].chunks) > 0.95


def test_jitter_of_the_camera_is_not_the_backgrounds(metrics):
    chunks = scenes.measure(metrics, scenes.clip("jitter", PAN))
    assert min(chunks["paper/background_compensated"].chunks) > 0.9


def test_how_a_video_is_cut_into_blocks_does_not_matter(metrics):
    frames = scenes.clip("", PAN)
    one, other = (scenes.measure(metrics, frames, size=size) for size in (16, 5))
    for name in one:
        np.testing.assert_allclose(one[name].chunks, other[name].chunks, rtol=1e-12, err_msg=name)


def test_a_cut_between_segments_is_in_neither(metrics):
    frames = np.repeat(scenes.clip("", PAN)[:: scenes.LENGTH], scenes.LENGTH, axis=0)
    scores = scenes.measure(metrics, frames)
    assert set(scores["paper/motion"].chunks) == {0.0}
    assert set(scores["paper/motion_smoothness"].chunks) == {1.0}
    assert set(scores["paper/background"].chunks) == {1.0}
