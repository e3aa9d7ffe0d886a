"""The whole way from a file to a score, beside what the published evaluator said of the same files.

Full networks with random weights; `tests.golden.make_published` made the other side.
"""

import functools
from unittest import mock

import numpy as np
import pytest

from bvjax.lvbench import runner, weights
from bvjax.lvbench.metric import MetricContext, Options
from bvjax.lvbench.official import dynamic
from bvjax.lvbench.store import Store
from bvjax.lvbench.suites import METRIC_ENTRIES
from bvjax.lvbench.vde import vde
from bvjax.lvbench.video import blocks, probe
from bvjax.sharding import Layout
from tests.golden import published_cases as cases

CASES = [(clip, metric) for clip in cases.CLIPS for metric in clip.metrics]
TOLERANCE = 1e-5  # of scores, relative; mistakes that leave scores nearest move them by 2e-4
VDE_TOLERANCE = 1e-4  # differences of scores that are nearly alike


@pytest.fixture(scope="module")
def file_of(tmp_path_factory):
    """Clips as files, each written once."""
    folder = tmp_path_factory.mktemp("clips")
    return functools.cache(lambda clip: cases.write(clip, folder))


@pytest.fixture
def speeds(monkeypatch):
    """Speeds of pairs by the number of frames they are of, as dynamic degree judges them."""
    seen, judge = {}, dynamic.is_moving

    def is_moving(speeds, frames, shorter):
        seen[frames] = speeds
        return judge(speeds, frames, shorter)

    monkeypatch.setattr(dynamic, "is_moving", is_moving)
    return seen


def measured(metric, path, folder):
    """A file with its scores, from the runner."""
    load = lambda net: cases.weights(net, weights.FILES[net].shapes())
    measured_metric = METRIC_ENTRIES[f"official/{metric}"].make(
        MetricContext(Options(), Layout(), load)
    )
    job = runner.MeasurementJob(path, Store(folder), [measured_metric], cases.SEGMENTS, weights={})
    runner.measure(job, mock.Mock())
    (measured,), pending = runner.collect(job)
    assert not pending and not measured.failures
    return measured.video, measured.scores[measured_metric.name]


@pytest.mark.parametrize("clip", cases.CLIPS, ids=lambda clip: clip.name)
def test_the_clips_are_those_that_were_measured(clip, file_of):
    path = file_of(clip)
    decoded = np.concatenate([block.frames for block in blocks(probe(path, path.parent))])
    assert cases.digest(decoded) == cases.published()[clip.name]["sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clip", "metric"), CASES, ids=[f"{clip.name}-{metric}" for clip, metric in CASES]
)
def test_scores_are_those_of_the_published_evaluator(clip, metric, file_of, speeds, tmp_path):
    reference = cases.published()[clip.name]["metrics"][metric]
    video, scores = measured(metric, file_of(clip), tmp_path)
    assert video.frames == clip.frames and not scores.reason
    assert scores.weight == (clip.frames - 1 if metric in ("subject", "background") else 1)
    np.testing.assert_allclose(scores.chunks, reference["segments"], rtol=TOLERANCE)
    assert scores.whole == pytest.approx(reference["dimension"], rel=TOLERANCE)
    assert float(vde(np.array(scores.chunks))) == pytest.approx(reference["vde"], rel=VDE_TOLERANCE)
    if metric == "dynamic":  # 1 and 0 would hide much
        pairs = reference["pairs"]
        np.testing.assert_allclose(speeds[len(pairs) + 1], pairs, rtol=TOLERANCE)
