"""Boxes, masks and identities: given and found."""

import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.lvbench.metric import MetricContext
from bvjax.lvbench.paper import background, identity, subject
from bvjax.lvbench.paper.scene import EDGE, scene_of
from tests.bvjax.lvbench.paper import scenes


def overlap(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    area = lambda box: np.prod(box[2:] - box[:2])
    both = np.prod(np.maximum(sides, 0))
    return both / (area(a) + area(b) - both)


@pytest.mark.parametrize("defect", ["", "swap", "melt"])
def test_the_subject_is_followed_through(defect):
    frames = scenes.clip(defect, (1.0, 0.5))
    video, blocks = scenes.video_of(frames), scenes.blocks_of(frames)
    result = np.concatenate([scene_of(block, video).boxes(block) for block in blocks])
    assert min(overlap(np.array(scenes.box_of(t)), box) for t, box in enumerate(result)) > 0.5


def test_nobody_there():
    place = scenes.clip()[:8].copy()
    place[:] = place[:, :20, :20].repeat(5, 1)[:, :96].repeat(7, 2)[:, :, :136]
    (block,) = scenes.blocks_of(place)
    assert np.isnan(scene_of(block, scenes.video_of(place)).boxes(block)).all()
    scores = scenes.measure([subject.make(scenes.context())], place, segments=2)["paper/subject"]
    assert np.isnan(scores.chunks).all() and "first chunk" in scores.reason


@pytest.fixture
def truth(tmp_path):
    """Boxes that are missing in the third segment; a background that is the left half."""
    boxes = np.array([scenes.box_of(t) for t in range(scenes.FRAMES)], np.float32)
    boxes[2 * scenes.LENGTH : 3 * scenes.LENGTH] = np.nan
    left = np.zeros((scenes.FRAMES, scenes.HEIGHT, scenes.WIDTH), bool)
    left[:, :, : scenes.WIDTH // 2 + 1] = True
    left[:, :4] = False
    np.savez(path := tmp_path / "clip.truth.npz", boxes=boxes, background=np.packbits(left, -1))
    return path


def test_given_boxes_and_masks_are_taken(truth):
    frames = scenes.clip("swap", (1.0, 0.5))
    video = scenes.video_of(frames, truth)
    for _ in range(2):  # the same video once more begins anew
        result = []
        for block in scenes.blocks_of(frames):
            result.append(scene := scene_of(block, video))
            assert scene is result[0] and scene_of(block, video) is scene  # metrics share it
            boxes, masks = scene.boxes(block), scene.background(block)
            assert np.isnan(boxes[:, 0]).tolist() == [t // 8 == 2 for t in _times(block)]
            assert len(masks) == len(block.frames) - (block.previous is None)
            inside = np.zeros(masks.shape[1:], bool)
            inside[4 + EDGE :, : scenes.WIDTH // 2 + 1 - EDGE] = True
            assert (masks == inside).all()
    scores = scenes.measure([subject.make(scenes.context())], frames, truth)["paper/subject"]
    assert np.isnan(scores.chunks).tolist() == [False, False, True, False, False, False]
    assert scores.reason == "no subject found in chunk 3"
    before, after = scores.chunks[1], scores.chunks[3:]
    assert before > 0.9 and max(after) < 0.6


def _times(block):
    return range(block.first, block.first + len(block.frames))


def test_a_given_mask_decides_what_is_background(tmp_path):
    """The place melts; where the middle of the subject is called background, nothing is seen."""
    frames, scores = scenes.clip("melt"), {}
    for name, inside in (("subject", True), ("place", False)):
        mask = np.full((scenes.FRAMES, scenes.HEIGHT, scenes.WIDTH), not inside)
        for t in range(scenes.FRAMES):
            x0, y0, x1, y1 = scenes.box_of(t)
            mask[t, y0 + 8 : y1 - 8, x0 + 5 : x1 - 5] = inside
        np.savez(path := tmp_path / f"{name}.truth.npz", background=np.packbits(mask, -1))
        metric = background.make(scenes.context(static=10.0))
        scores[name] = scenes.measure([metric], frames, path)["paper/background"].chunks
    assert min(scores["subject"]) > 0.9
    assert max(scores["place"][scenes.AT - 1 :]) < 0.4


def test_background_of_a_pair_is_background_in_both_frames(tmp_path):
    frames = scenes.clip()[:4]
    mask = np.ones((4, scenes.HEIGHT, scenes.WIDTH), bool)
    mask[::2, :, 50:] = False
    np.savez(path := tmp_path / "clip.truth.npz", background=np.packbits(mask, -1))
    video = scenes.video_of(frames, path)
    for block in scenes.blocks_of(frames, size=2):
        masks = scene_of(block, video).background(block)
        assert masks[..., : 50 - EDGE].all() and not masks[..., 50 - EDGE :].any()


def test_what_a_box_shows():
    box = lambda *corners: np.array(corners, np.float32)
    assert subject.visible_part(box(-10.0, 4.5, 20.2, 30.0), 40, 60) == (0, 4, 21, 30)
    assert (
        subject.visible_part(box(-90.0, 0.0, 10.0, 40.0), 40, 60) is None
    )  # a tenth is in the frame
    assert subject.visible_part(box(5.0, 5.0, 8.0, 30.0), 40, 60) is None  # three pixels wide
    assert subject.visible_part(box(*[np.nan] * 4), 40, 60) is None
    frame = np.arange(40 * 60 * 3, dtype=np.int64).reshape(40, 60, 3)
    assert (identity.square(frame, (50, 10, 60, 30)) == frame[10:30, 40:60]).all()
    assert identity.square(frame, (0, 0, 60, 40)).shape == (40, 40, 3)


def test_the_mean_of_the_first_segment_is_the_measure():
    vectors = {0: np.array([1.0, 0]), 2: np.array([0, 1.0]), 3: np.array([-1.0, 0])}
    actual = subject.similarities(vectors, frames=4, segments=1)
    mean = np.array([0, 1 / 3]) / (1 / 3)
    np.testing.assert_allclose(actual, [mean[0], np.nan, mean[1], -mean[0]], atol=1e-12)
    assert np.isnan(subject.similarities({3: np.ones(2)}, 4, 2)).all()


def test_histograms_tell_colours_and_shapes_apart():
    rng = np.random.default_rng(0)
    side = identity.CROP_SIDE
    stripes = 40 * np.sign(np.sin(np.arange(side)))[:, None, None]
    red = np.clip([180, 60, 60] + stripes + rng.normal(0, 3, (side, side, 3)), 0, 255)
    red, blue = red.astype(np.uint8), red[..., ::-1].astype(np.uint8)
    turned = red.swapaxes(0, 1)
    r, b, t = (identity.histograms(x) for x in (red, blue, turned))
    np.testing.assert_allclose([r @ r, b @ b], 1, rtol=1e-12)
    assert 0.15 < r @ b < 0.3  # the same shapes in other colours
    assert 0.7 < r @ t < 0.85  # the same colours in other shapes


def test_dino_gets_squares_and_gives_unit_vectors(monkeypatch):
    dino = types.SimpleNamespace(
        prepare=lambda tensors: tensors,
        dino=lambda params, x: jnp.mean(x, (1, 2)) * params["gain"] + x.shape[1],
    )
    monkeypatch.setitem(sys.modules, "bvjax.lvbench.nets.dino", dino)
    monkeypatch.setattr("bvjax.lvbench.nets.dino", dino, raising=False)
    base = scenes.context(subject="dino", batch=2)
    encoder = identity.encoder_of(
        MetricContext(base.options, base.layout, lambda name: {"gain": np.float32(1.0)})
    )
    frame = np.full((50, 70, 3), 51, np.uint8)
    actual = encoder.embed(frame, (10, 10, 30, 25)).value()
    expected = (0.2 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225] + 224
    np.testing.assert_allclose(actual, expected / np.linalg.norm(expected), rtol=1e-5)


def test_an_unknown_encoder_is_told():
    with pytest.raises(UserError, match="histogram or dino"):
        subject.make(scenes.context(subject="arcface"))
