"""The whole way from a file to a score, beside what the published evaluator said of the same files.

Full networks with random weights; `tests.golden.make_published` made the other side.
"""

import functools

import numpy as np
import pytest

from bvjax.lvbench import weights
from bvjax.lvbench.metric import Context, Options
from bvjax.lvbench.official import dynamic
from bvjax.lvbench.suites import ENTRIES
from bvjax.lvbench.vde import vde
from bvjax.lvbench.video import blocks, probe
from bvjax.sharding import Layout
from tests.golden import published_cases as cases

CASES = [(clip, metric) for clip in cases.CLIPS for metric in clip.metrics]
TOLERANCE = 1e-4  # of scores, relative


@pytest.fixture(scope="module")
def file_of(tmp_path_factory):
    """Clips as files, each written once."""
    folder = tmp_path_factory.mktemp("clips")
    return functools.cache(lambda clip: cases.write(clip, folder))


@pytest.fixture
def speeds(monkeypatch):
    """Speeds of pairs by the number of frames they are of, as dynamic degree judges them."""
    seen, judge = {}, dynamic.moving

    def moving(speeds, frames, shorter):
        seen[frames] = speeds
        return judge(speeds, frames, shorter)

    monkeypatch.setattr(dynamic, "moving", moving)
    return seen


def measured(metric, path):
    """Scores of a file, and how many frames it has."""
    context = Context(
        Options(), Layout(), lambda net: cases.weights(net, weights.FILES[net].shapes())
    )
    video = probe(path, path.parent)
    measurement = ENTRIES[f"official/{metric}"].make(context).begin(video, cases.SEGMENTS)
    for block in blocks(video):
        measurement.add(block)
    return measurement.scores(), video.frames


@pytest.mark.parametrize("clip", cases.CLIPS, ids=lambda clip: clip.name)
def test_the_clips_are_those_that_were_measured(clip, file_of):
    path = file_of(clip)
    decoded = np.concatenate([block.frames for block in blocks(probe(path, path.parent))])
    assert cases.digest(decoded) == cases.published()[clip.name]["sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clip", "metric"), CASES, ids=[f"{clip.name}-{metric}" for clip, metric in CASES]
)
def test_scores_are_those_of_the_published_evaluator(clip, metric, file_of, speeds):
    theirs = cases.published()[clip.name]["metrics"][metric]
    found, frames = measured(metric, file_of(clip))
    assert not found.reason
    assert found.weight == (frames - 1 if metric in ("subject", "background") else 1)
    np.testing.assert_allclose(found.chunks, theirs["segments"], rtol=TOLERANCE)
    assert found.whole == pytest.approx(theirs["dimension"], rel=TOLERANCE)
    assert float(vde(np.array(found.chunks))) == pytest.approx(theirs["vde"], rel=TOLERANCE)
    if metric == "dynamic":  # 1 and 0 would hide much
        pairs = theirs["pairs"]
        np.testing.assert_allclose(speeds[len(pairs) + 1], pairs, rtol=TOLERANCE)
