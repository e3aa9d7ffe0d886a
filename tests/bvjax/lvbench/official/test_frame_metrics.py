"""Subject, background and aesthetic: formulas by hand, preprocessing, segments, batches."""

import math

import numpy as np
import pytest

from bvjax.lvbench.batching import Batcher
from bvjax.lvbench.metric import MetricContext, Options
from bvjax.lvbench.nets import clip_vision, dino
from bvjax.lvbench.official import aesthetic, background, preprocess, subject
from bvjax.lvbench.official.consistency import FrameMetric, consistency, pair_weight
from bvjax.lvbench.video import Block, Video
from bvjax.sharding import Layout
from tests.golden.metric_recipe import params as draw
from tests.golden.recipe import uniform

TOWER = clip_vision.Tower(width=64, layers=1, patch=112, grid=2, features=4)
SMALL = {
    "dino_vitb16": dino.shapes(width=64, layers=1, patch=64, grid=3),
    "clip_vit_b32": clip_vision.shapes(TOWER),
    "clip_vit_l14": clip_vision.shapes(TOWER),
    "laion_aesthetic": {"weight": (1, 4), "bias": (1,)},
}


def context(batch):
    return MetricContext(Options(batch=batch), Layout(), lambda name: draw(name, SMALL[name]))


def measured(metric, frames, segments, size):
    """Scores of a video that comes in blocks of `size` frames."""
    video = Video(None, "x", "", len(frames), 8.0, *frames.shape[1:3])
    measurement = metric.begin(video, segments)
    for first in range(0, len(frames), size):
        measurement.add(Block(first, frames[first : first + size], None))
    return measurement.scores()


def test_consistency_by_hand():
    turn = lambda degrees: [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]
    features = np.float32([turn(0), turn(60), turn(120), turn(60)])
    features *= np.float32([[1], [3], [0.5], [2]])  # lengths do not matter
    # to the one before: 1/2, 1/2, 1/2; to the first: 1/2, -1/2 (counts as 0), 1/2
    expected = np.mean([(0.5 + 0.5) / 2, (0.5 + 0) / 2, (0.5 + 0.5) / 2])
    assert consistency(features) == pytest.approx(expected, rel=1e-6)
    assert consistency(np.ones((2, 5), np.float32)) == pytest.approx(1, abs=1e-12)


def test_each_segment_starts_anew_and_the_whole_video_does_not():
    """Features are a frame's mean colour: red, then green, then blue; 7 frames in 3 segments."""
    frames = np.zeros((7, 2, 2, 3), np.uint8)
    for t, colour in enumerate((0, 0, 1, 1, 2, 0, 2)):
        frames[t, ..., colour] = 200
    colours = Batcher(lambda _, x: x.astype(np.float32).mean((1, 2)), {}, 4)
    metric = FrameMetric("x", {}, 2, colours, consistency, pair_weight)
    actual = measured(metric, frames, 3, size=3)
    assert actual.chunks == pytest.approx((1, 1, 0))
    # to the one before: 1 0 1 0 0 0; to the first: 1 0 0 0 1 0
    assert actual.whole == pytest.approx(4 / 12) and actual.weight == 6


def test_preprocessing_by_hand():
    """A plain picture keeps its colour; what is cut off is equal on both sides, or nothing."""
    plain = np.full((1, 30, 41, 3), (0, 128, 255), np.uint8)
    for output, mean, deviation, shape in (
        (preprocess.dino_input, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (224, 306)),
        (
            preprocess.clip_input,
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
            (224, 224),
        ),
    ):
        actual = np.asarray(output(plain))
        assert actual.shape == (1, *shape, 3)
        expected = (np.array([0, 128 / 255, 1]) - mean) / deviation
        np.testing.assert_allclose(actual, np.broadcast_to(expected, actual.shape), atol=1e-5)
    ramp = np.broadcast_to(np.arange(0, 164, 4, dtype=np.uint8)[:, None], (1, 30, 41, 3))
    row = np.asarray(preprocess.clip_input(ramp))[0, 100, :, 0]
    middle = (80 / 255 - 0.48145466) / 0.26862954  # of the ramp, in the middle of the square
    assert row[111:113].mean() == pytest.approx(middle, abs=1e-5)


@pytest.mark.parametrize(
    "module, least",
    [(subject, 2), (background, 2), (aesthetic, 1)],
    ids=["subject", "background", "aesthetic"],
)
def test_scores_do_not_depend_on_batches(module, least):
    frames = np.uint8(127 + 70 * uniform("frames", (7, 18, 24, 3)))
    one, four = (measured(module.make(context(batch)), frames, 2, size=5) for batch in (1, 4))
    assert module.make(context(1)).least_frames == least
    np.testing.assert_allclose(one.chunks, four.chunks, rtol=1e-5)
    assert one.whole == pytest.approx(four.whole, rel=1e-5)
    assert one.weight == (1 if module is aesthetic else 6)
    assert len(set(one.chunks)) == 2 and 0 < one.whole < 1
