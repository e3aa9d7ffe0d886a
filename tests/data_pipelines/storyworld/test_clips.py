"""Clips and the cache of rendered stories."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bvjax.errors import UserError
from data_pipelines.storyworld import clips as clips_lib
from data_pipelines.storyworld.cache import fill
from data_pipelines.storyworld.clips import Clips, FreshClips, open_story, write_story
from data_pipelines.storyworld.plan import make_story


@pytest.fixture(scope="module")
def source() -> Clips:
    return Clips(split="train", stories=3, frames=5, height=16, width=16, fps=1)


@pytest.fixture(scope="module")
def cached(source, tmp_path_factory) -> Clips:
    cached = dataclasses.replace(source, cache=tmp_path_factory.mktemp("cache"))
    for number in (0, 2):  # story 1 stays to be rendered in process
        write_story(cached.path(number), "train", 16, 16, 1, number)
    return cached


def test_a_batch_is_a_function_of_seed_and_index(source):
    a, b = source.batch(5, 3)["frames"], source.batch(5, 3)["frames"]
    assert a.shape == (3, 5, 16, 16, 3) and a.dtype == np.uint8
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, source.batch(6, 3)["frames"])
    assert not np.array_equal(a, dataclasses.replace(source, seed=1).batch(5, 3)["frames"])


def test_fresh_clips_are_rendered_once_and_a_function_of_the_index(source, monkeypatch):
    drawn = []
    render = clips_lib.render_frames
    monkeypatch.setattr(
        clips_lib, "render_frames", lambda story, *x: drawn.append(story) or render(story, *x)
    )
    fresh = FreshClips(dataclasses.replace(source, crop=8), window=4)
    seen = [fresh.batch(i, 3)["frames"] for i in range(6)]
    assert seen[0].shape == (3, 5, 8, 8, 3)
    assert len(drawn) == len(set(map(repr, drawn))) <= 6 + 3  # each story once, one new a batch
    assert set(fresh._clips_by_story) <= {5, 6, 7, 8}  # the newest `window`
    resumed = FreshClips(fresh.clips, window=4).batch(5, 3)["frames"]
    np.testing.assert_array_equal(resumed, seen[5])


def test_a_crop_larger_than_the_frames_is_refused(source):
    with pytest.raises(UserError, match="data.crop is 17; it can be 0 .whole frames. to 16 pixels"):
        dataclasses.replace(source, crop=17)


def test_the_cache_changes_nothing(source, cached):
    assert cached.check_cache() == 2 and source.check_cache() == 0
    for index in range(4):
        np.testing.assert_array_equal(
            source.batch(index, 3)["frames"], cached.batch(index, 3)["frames"]
        )


def test_clips_come_from_the_cache_where_it_has_them(cached, monkeypatch):
    rendered = []
    real = clips_lib.render_frames
    monkeypatch.setattr(
        clips_lib, "render_frames", lambda story, *a: rendered.append(story.seed) or real(story, *a)
    )
    cached.batch(0, 12)
    assert set(rendered) == {1}


def test_a_clip_is_a_run_of_frames_of_its_story(cached):
    clip = cached.batch(0, 12)["frames"]
    videos = [open_story(cached.path(n), 16, 16) for n in (0, 2)]
    result = sum(
        any(np.array_equal(v[s : s + 5], c) for v in videos for s in range(len(v) - 4))
        for c in clip
    )
    assert 0 < result <= 12
    assert len(videos[0]) == 1 + 15 * 4


def test_a_cache_of_another_renderer_or_a_damaged_one_is_refused(source, tmp_path):
    stale = dataclasses.replace(source, cache=tmp_path, stories=1)
    path = stale.path(0)
    write_story(path, "train", 16, 16, 1, 0)
    video = np.load(path)
    np.save(path, 255 - video)
    with pytest.raises(UserError, match="differs from what the renderer draws now"):
        stale.check_cache()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="is damaged"):
        stale.check_cache()


def test_fill_renders_only_what_is_missing(tmp_path, capfd):
    root = tmp_path / "cache"
    write_story(clips_lib.story_path(root, "heldout", 16, 16, 1, 0), "heldout", 16, 16, 1, 0)
    assert fill(root, "heldout", 16, 16, 1, stories=2, workers=2) == 1
    names = sorted(p.name for p in (root / "heldout-16x16-1fps").iterdir())
    assert names == ["story_00000.npy", "story_00001.npy"]  # nothing temporary stays
    story = make_story(1, "heldout")
    video = open_story(root / "heldout-16x16-1fps" / "story_00001.npy", 16, 16)
    np.testing.assert_array_equal(video[7:8], clips_lib.render_frames(story, [7], 16, 16, 1))
    assert fill(root, "heldout", 16, 16, 1, stories=2, workers=2) == 0


def test_crops_are_squares_of_the_whole_clip(source):
    crops = dataclasses.replace(source, crop=9).batch(3, 1)["frames"][0]
    whole = source.batch(3, 1)["frames"][0]
    assert crops.shape == (5, 9, 9, 3)
    places = [(top, left) for top in range(8) for left in range(8)]
    assert any(np.array_equal(whole[:, y : y + 9, x : x + 9], crops) for y, x in places)


def test_a_cached_file_that_is_no_story_of_this_size_is_refused(source, tmp_path):
    cached = dataclasses.replace(source, cache=tmp_path, stories=1)
    path = cached.path(0)
    path.parent.mkdir()
    for array in (np.zeros((61, 16, 8, 3), np.uint8), np.zeros((61, 16, 16, 3)), np.zeros(3)):
        np.save(path, array)
        with pytest.raises(UserError, match="is not a story of 16x16 pixels; delete it"):
            cached.batch(0, 1)
    np.save(path, np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(UserError, match="is too short; delete it"):
        cached.batch(0, 1)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        cached.batch(0, 1)


def test_a_clip_is_no_longer_than_a_story(source):
    with pytest.raises(UserError, match="data.frames is 62; a story has 61 at 1 fps"):
        dataclasses.replace(source, frames=62)
