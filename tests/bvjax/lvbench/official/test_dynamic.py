"""Dynamic degree: its counting rule, and which frames it looks at."""

import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.lvbench.metric import MetricContext, Options
from bvjax.lvbench.nets import raft
from bvjax.lvbench.official import dynamic
from bvjax.lvbench.video import Block, Video
from bvjax.sharding import Layout

SIZE = (12, 20)


@pytest.fixture
def metric(monkeypatch):
    """The flow is the difference of the frames' red and green."""
    flow = lambda params, first, second: (second - first)[..., :2]
    monkeypatch.setattr(raft, "flow", flow)
    monkeypatch.setattr(raft, "prepare", lambda tensors: tensors)
    return dynamic.make(
        MetricContext(Options(batch=16), Layout(), lambda name: {name: np.zeros(1)})
    )


@pytest.mark.parametrize(
    ("frames", "asked"), [(2, 0), (3, 1), (6, 2), (10, 2), (14, 4), (16, 4), (18, 4), (22, 6)]
)
def test_how_many_pairs_must_be_fast(frames, asked):
    """A quarter of the frames, halves to even; "fast" is more than 6 pixels at 256."""
    still, edge, fast = 0.0, 12.0, 12.1
    pairs = frames - 1
    assert dynamic.is_moving([fast] * asked + [still] * (pairs - asked), frames, 512)
    if asked:
        slow = [edge] * (pairs - asked + 1)
        assert not dynamic.is_moving(slow + [fast] * (asked - 1), frames, 512)


def test_a_frame_alone_does_not_move():
    assert not dynamic.is_moving([], 1, 256)


@pytest.mark.parametrize(
    ("fps", "every"),
    [(0, 1), (4, 1), (8, 1), (12, 2), (11.9995, 2), (12.04, 2), (11.9, 1), (16, 2), (20, 2),
     (20.0005, 2), (24, 3), (28, 4), (29.97, 4), (59.94, 7), (60, 8)],
)  # fmt: skip
def test_about_eight_frames_a_second(fps, every):
    assert dynamic.interval(fps) == every


def test_speed_is_of_the_fastest_twentieth_of_the_padded_picture(metric):
    frames = np.random.default_rng(1).integers(0, 256, (2, 1, 9, 21, 3)).astype(np.uint8)
    result = dynamic.speed(None, *map(jnp.asarray, frames))
    pads = ((3, 4), (1, 2), (0, 0))
    wide = [np.pad(np.float64(frame[0]), pads, "edge") for frame in frames]
    lengths = np.sort(np.hypot(*np.moveaxis((wide[1] - wide[0])[..., :2], -1, 0)).ravel())
    assert float(result[0]) == pytest.approx(lengths[-int(0.05 * 16 * 24) :].mean(), rel=1e-6)


@pytest.mark.parametrize("block", [1, 5, 16])
def test_frames_are_left_out_before_segments_are_cut(metric, block):
    """26 frames at 16 a second: 13 are looked at, so that 4 segments of 3 begin at 0, 6, 12, 18."""
    jumps = {3: 2, 5: 90, 7: 90, 14: 90, 24: 90}  # grey levels, from this frame on
    levels = np.cumsum([jumps.get(t, 0) for t in range(26)]) % 181
    frames = np.broadcast_to(levels.astype(np.uint8)[:, None, None, None], (26, *SIZE, 3))
    video = Video(None, "a.mp4", "", 26, 16.0, *SIZE)
    measurement = metric.begin(video, 4)
    for first in range(0, 26, block):
        measurement.add(Block(first, frames[first : first + block], None))
    result = measurement.scores()
    # (2, 4) moves by 2 only, more than 6 * 12 / 256; (4, 6) joins segments; (18 .. 22) stays.
    assert result.chunks == (1.0, 1.0, 1.0, 0.0)
    assert result.whole == 1.0 and result.weight == 1 and not result.reason
    short = metric.begin(Video(None, "b.mp4", "", 6, 16.0, *SIZE), 4)
    short.add(Block(0, frames[:6], None))
    result = short.scores()
    assert np.isnan(result.chunks).all() and len(result.chunks) == 4
    assert result.whole == 1.0  # 3 frames: one fast pair of two is enough
    assert result.reason == "of 2 frames one is looked at, 3 in all; 4 chunks need as many"
