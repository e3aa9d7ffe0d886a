"""Clips read by Grain: cut out of the stories, and resumed exactly."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from bvjax.errors import UserError
from data_pipelines.storyworld import builder
from data_pipelines.storyworld.clips import Clips
from data_pipelines.storyworld.example import story_example
from data_pipelines.storyworld.grain_clips import GrainClips

SIZE = dict(height=16, width=16, fps=1)


@pytest.fixture(scope="module")
def videos():
    """Noise in place of rendered frames: quick, and every clip can be found again."""
    return np.random.default_rng(0).integers(0, 256, (3, 61, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def data_dir(videos, tmp_path_factory):
    root, row = tmp_path_factory.mktemp("tfds"), story_example(0, "train", **SIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "story_example", lambda seed, **_: row | {"video": videos[seed]})
        builder.build(root, builder.StoryworldConfig(**SIZE, stories=3, heldout=1))
    return root


def make(data_dir, **changes) -> GrainClips:
    return GrainClips(data_dir, **(dict(split="train", stories=3, frames=5, **SIZE) | changes))


def find(videos, clip) -> tuple[int, int, int, int] | None:
    """(story, first frame, top, left) of a clip, by search."""
    f, h, w = clip.shape[:3]
    for story, video in enumerate(videos):
        windows = np.lib.stride_tricks.sliding_window_view(video[..., 0], (f, h, w))
        for place in np.argwhere((windows == clip[..., 0]).all((3, 4, 5))):
            start, top, left = (int(x) for x in place)
            if np.array_equal(video[start : start + f, top : top + h, left : left + w], clip):
                return story, start, top, left
    return None


def test_every_epoch_takes_one_clip_of_every_story(data_dir, videos):
    places = [find(videos, c) for i in range(4) for c in make(data_dir).batch(i, 3)["frames"]]
    assert all(sorted(p[0] for p in places[i : i + 3]) == [0, 1, 2] for i in range(0, 12, 3))
    assert len({p[1] for p in places}) > 6  # first frames vary, between epochs too
    assert len({tuple(p[0] for p in places[i : i + 3]) for i in range(0, 12, 3)}) > 1


def test_crops_are_squares_at_any_place(data_dir, videos):
    clips = make(data_dir, crop=9).batch(0, 12)["frames"]
    assert clips.shape == (12, 5, 9, 9, 3) and clips.dtype == np.uint8
    places = [find(videos, clip) for clip in clips]
    assert None not in places and len({p[2:] for p in places}) > 6


def test_batches_are_like_those_of_the_rendered_source(data_dir):
    ours = next(make(data_dir, crop=8).batches(2))
    reference = Clips(split="train", stories=3, frames=5, **SIZE, crop=8).batch(0, 2)
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {
        k: (v.shape, v.dtype) for k, v in reference.items()
    }


def test_an_iterator_resumes_exactly(data_dir):
    whole = make(data_dir).batches(2)
    head = [next(whole)["frames"] for _ in range(4)]
    state = json.loads(json.dumps(whole.get_state()))
    tail = [next(whole)["frames"] for _ in range(4)]
    resumed = make(data_dir).batches(2)
    next(resumed)  # has read ahead; set_state must not hand that out
    resumed.set_state(state)
    for expected in tail:
        np.testing.assert_array_equal(next(resumed)["frames"], expected)
    for index, expected in enumerate(head + tail):
        np.testing.assert_array_equal(make(data_dir).batch(index, 2)["frames"], expected)
    other = make(data_dir, seed=1).batches(2)
    assert not all(np.array_equal(next(other)["frames"], batch) for batch in head)


def test_far_indices_are_reached_at_once(data_dir):
    a, b = (make(data_dir).batch(2**40 + i, 2)["frames"] for i in (0, 1))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(fps=2), "61 frames of 16x16, 121 frames of 16x16 are wanted"),
        (dict(width=32), "61 frames of 16x16, 61 frames of 16x32 are wanted"),
        (dict(stories=4), "holds 3 train stories, 4 are wanted"),
        (dict(frames=62), "62 frames of 16x16 cannot be cut out of 61 frames of 16x16"),
        (dict(crop=17), "5 frames of 17x17 cannot be cut out of 61 frames of 16x16"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused(data_dir, changes, message):
    with pytest.raises(UserError, match=message):
        make(data_dir, **changes)


def test_a_story_that_is_damaged_is_named_when_it_is_read(data_dir, tmp_path):
    """Only the first and the last one are read when a dataset is opened."""
    root = shutil.copytree(data_dir, tmp_path / "copy")
    (path,) = root.glob("storyworld/*/*/*train*")
    content = bytearray(path.read_bytes())
    at = 75_000  # in story 1: each takes about 49,800 bytes
    content[at : at + 64] = bytes(64)
    path.write_bytes(content)
    batches = make(root).batches(3)
    with pytest.raises(
        UserError, match=r"story 1 in .* is damaged: .*; delete the folder"
    ) as error:
        next(batches)
    assert "\n" not in str(error.value)
