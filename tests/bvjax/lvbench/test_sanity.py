"""Videos of storyworld with a known defect, from files to scores: what moves, and in which chunk."""

from __future__ import annotations

import numpy as np
import pytest

from bvjax.lvbench import suites
from bvjax.lvbench.change import movement
from bvjax.lvbench.metric import MetricContext, Options
from bvjax.lvbench.video import blocks, probe
from bvjax.sharding import Layout
from data_pipelines.storyworld.defects import DEFECTS, make_take, write_video

SEGMENTS, AT = 10, 6
# Least change, relative to the first chunk, of the scores that a defect is about.
EXPECTED = {
    "none": {},
    "blur": {"clarity": 0.5, "aesthetic": 0.1},
    "colour": {"subject": 0.3, "aesthetic": 0.09},
    "jitter": {"motion": 1.5, "motion_smoothness": 0.02, "background": 0.8},
    "freeze": {"motion": 0.9, "motion_smoothness": 0.01},
    "swap": {"subject": 0.5},
    "melt": {"background": 0.8, "background_compensated": 0.8, "motion": 0.5},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def drifts(tmp_path_factory):
    """{defect: {metric: (scores, |m_i - m_1| / m_1)}}; the table is printed."""
    folder = tmp_path_factory.mktemp("defects")
    take = make_take("steady", 0, seconds=20, chunk=AT, segments=SEGMENTS, size=96, fps=8)
    context = MetricContext(Options(segments=SEGMENTS), Layout(), load=lambda name: {})
    metrics = [entry.make(context) for entry in suites.choose("paper")]
    found = {}
    for defect in DEFECTS:
        write_video(take, defect, folder / f"{defect}.mp4")
        video = probe(folder / f"{defect}.mp4", folder)
        begun = [(metric.name.split("/")[1], metric.begin(video, SEGMENTS)) for metric in metrics]
        for block in blocks(video):
            for _, measurement in begun:
                measurement.add(block)
        scores = {name: np.array(measurement.scores().chunks) for name, measurement in begun}
        found[defect] = {name: (m, np.abs(m - m[0]) / m[0]) for name, m in scores.items()}
    print("\n".join(table(found)))
    return found


def table(found):
    """Change in percent: the largest before the defect, then the least after it began.

    Of the untouched video the largest of both.
    """
    names = list(found["none"])
    lines = ["", "| defect | " + " | ".join(names) + " |", "| --- " * (1 + len(names)) + "|"]
    for defect, scores in found.items():
        cells = []
        for name in names:
            change = 100 * scores[name][1]
            before, after = change[1 : AT - 1].max(), change[AT - 1 :]
            after = after.max() if defect == "none" else after.min()
            mark = "**" if name in EXPECTED[defect] else ""
            cells.append(f"{before:.2g}, {mark}{float(f'{after:.2g}'):g}{mark}")
        lines.append(f"| {defect} | " + " | ".join(cells) + " |")
    return lines


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d != "none"])
def test_the_scores_it_is_about_move_in_its_chunk(drifts, defect):
    for name, least in EXPECTED[defect].items():
        scores, change = drifts[defect][name]
        assert change[: AT - 1].max() < least / 3, (name, change)
        assert change[AT - 1 :].min() > least, (name, change)
        found = movement(scores)
        assert (found.chunk, found.largest) == (AT, AT), (name, scores)


def test_nothing_moves_without_a_defect(drifts):
    """Nor before it: every score that a defect moves stays below a third of what is asked there."""
    for defect, scores in drifts.items():
        for name, (_, change) in scores.items():
            kept = change if defect == "none" else change[: AT - 1]
            asked = [least[name] for least in EXPECTED.values() if name in least]
            assert kept.max() < min(asked) / 3, (defect, name, change)


def test_defects_are_told_apart(drifts):
    """Identity moves for a swap, not for a melting place; the place for that, not for a swap."""
    after = lambda defect, name: drifts[defect][name][1][AT - 1 :].max()
    for other in ("blur", "jitter", "freeze", "melt"):
        assert after(other, "subject") < 0.1 < after("swap", "subject")
    for other in ("blur", "colour", "swap"):
        assert after(other, "background") < 0.1 < after("melt", "background")
    assert after("melt", "clarity") < 0.3 and after("jitter", "clarity") < 0.1
