"""Motion smoothness with a network that is worked out by hand: which frames count where."""

import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.lvbench.metric import MetricContext, Options
from bvjax.lvbench.nets import amt
from bvjax.lvbench.official import motion
from bvjax.lvbench.video import Block, Video
from bvjax.sharding import Layout

SIZE = (19, 33)  # 13 rows and 15 columns are missing to multiples of 16


def guess(params, first, second):
    """Mostly the second frame, one pixel to the right, so that the padding shows."""
    assert first.shape[1] % 16 == 0 and first.shape[2] % 16 == 0 and first.dtype == jnp.float32
    return jnp.roll(0.25 * first + 0.75 * second, 1, axis=2) * params + 0.1 / 255


def by_hand(first, second, between):
    """The mean difference of one triple in whole numbers, rounded down."""
    mixed = (first.astype(int) + 3 * second.astype(int)) // 4
    mixed = np.concatenate([mixed[:, :1], mixed[:, :-1]], axis=1)
    return np.abs(mixed - between.astype(int)).mean()


@pytest.fixture
def metric(monkeypatch):
    monkeypatch.setattr(amt, "interpolate", guess)
    monkeypatch.setattr(amt, "prepare", lambda tensors: tensors["gain"])
    load = {"amt_s": {"gain": np.float32(1)}}.__getitem__
    return motion.make(MetricContext(Options(batch=24), Layout(), load))


def measured(metric, frames, segments, block):
    video = Video(None, "a.mp4", "", len(frames), 8.0, *SIZE)
    measurement = metric.begin(video, segments)
    for first in range(0, len(frames), block):
        measurement.add(Block(first, frames[first : first + block], None))
    return measurement.scores()


@pytest.mark.parametrize(("segments", "block", "triples"), [(3, 1, 10), (3, 7, 10), (4, 16, 8)])
def test_triples_begin_with_the_segment(metric, segments, block, triples):
    """Odd segments begin at odd frames: what they share with the whole video is guessed once."""
    frames = np.random.default_rng(0).integers(0, 256, (17, *SIZE, 3)).astype(np.uint8)
    sent, submit = [], metric.batcher.submit
    metric.batcher.submit = lambda *items: sent.append(items) or submit(*items)
    result = measured(metric, frames, segments, block)
    assert len(sent) == triples

    def score(part):
        even, odd = part[0::2], part[1::2]  # an odd frame behind the last even one is not used
        differences = [by_hand(*x) for x in zip(even[:-1], even[1:], odd, strict=False)]
        return (255 - np.mean(differences)) / 255

    length = 17 // segments
    expected = [score(frames[i * length : (i + 1) * length]) for i in range(segments)]
    np.testing.assert_allclose(result.chunks, expected, rtol=1e-12)
    assert result.whole == pytest.approx(score(frames), rel=1e-12) and result.weight == 1


def test_needs_three_frames(metric):
    assert metric.least_frames == 3 and dict(metric.settings) == {"scale": 1}
    assert list(motion.starts(6, 3)) == [6] and list(motion.starts(6, 4)) == [6]
    assert not motion.starts(6, 2) and np.isnan(motion.smoothness([]))
