"""Imaging quality through a tiny MUSIQ: which frames count where, and on which scale."""

import numpy as np
import pytest

from bvjax.lvbench.metric import MetricContext, Options
from bvjax.lvbench.nets import musiq
from bvjax.lvbench.official import clarity
from bvjax.lvbench.video import Block
from bvjax.sharding import Layout
from tests.golden import metric_recipe

TINY = musiq.shapes(width=12, layers=1, ratio=1, stem=32)


def measured(metric, frames, segments):
    measurement = metric.begin(None, segments)
    for first in range(0, len(frames), 3):
        measurement.add(Block(first, frames[first : first + 3], None))
    return measurement.scores()


def test_scores_are_means_of_frames():
    weights = metric_recipe.params("musiq_spaq", TINY)
    context = MetricContext(Options(batch=2), Layout(), lambda name: {"musiq_spaq": weights}[name])
    metric = clarity.make(context)
    assert metric.name == "official/clarity" and metric.least_frames == 1
    frames = np.random.default_rng(0).integers(0, 256, (5, 9, 520, 3)).astype(np.uint8)
    frames[2] //= 4
    each = measured(metric, frames, 5)
    alone = np.array(each.chunks)
    assert alone.std() > 1e-3
    assert each.whole == pytest.approx(alone.mean() / 100) and each.weight == 1
    two = measured(metric, frames, 2)  # the last frame is in no segment, but in the whole
    assert two.chunks == pytest.approx([alone[:2].mean(), alone[2:4].mean()])
    assert two.whole == each.whole
    turned = measured(metric, frames[::-1], 5)  # other neighbours in a batch
    np.testing.assert_allclose(turned.chunks[::-1], alone, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "want"),
    [
        ((480, 854), (287, 512)),
        ((480, 832), (295, 512)),
        ((720, 1280), (288, 512)),
        ((512, 300), (512, 300)),
        ((1024, 3), (512, 1)),
    ],
)
def test_frames_are_at_most_512_long(size, want):
    frames = np.full((1, *size, 3), 51, np.uint8)
    result = np.asarray(clarity.clarity_input(frames))
    assert result.shape == (1, *want, 3)
    np.testing.assert_allclose(result, 0.2, rtol=1e-6)
