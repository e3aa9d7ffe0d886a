"""Pictures of one panorama: whose scenery, whose cast, how often it is painted."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipelines.storyworld import make_story, render, renderer, scenery, truth
from data_pipelines.storyworld.captions import mentions
from data_pipelines.storyworld.recast import pictures, recast, settled
from data_pipelines.storyworld.world import HELD_OUT_COMBOS, PLACES

SIZE = dict(height=32, width=32, fps=8)


@pytest.fixture(scope="module")
def drawn():
    return pictures(3, 16, split="train", **SIZE)


def test_pictures_are_a_function_of_split_and_index(drawn):
    again = pictures(3, 16, split="train", **SIZE)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(drawn, again, strict=True))
    assert [p.caption for p in drawn] == [p.caption for p in again]
    other = pictures(4, 16, split="train", **SIZE)
    assert not set(p.caption for p in drawn) & set(p.caption for p in other)


def test_a_picture_shows_whom_its_caption_describes(drawn):
    for picture in drawn:
        facts = truth(picture.story, [picture.frame], **SIZE)
        told = mentions(picture.caption)
        cast = [picture.story.subjects[i] for i in picture.story.chunks[0].subjects]
        assert told["names"] == {s.name for s in cast}
        assert {s.species for s in cast} <= told["species"] | {"none"}
        seen = {picture.story.subjects[i].name for i in np.flatnonzero(facts.visible[0])}
        on_stage = (facts.boxes[0, :, 2] > 0) & (facts.boxes[0, :, 0] < SIZE["width"])
        assert (
            seen
            <= told["names"]
            <= {s.name for s, there in zip(picture.story.subjects, on_stage, strict=True) if there}
        )


def test_casts_differ_and_never_show_a_held_out_pair(drawn):
    pairs = {
        (s.species, s.colour)
        for p in drawn
        for s in (p.story.subjects[i] for i in p.story.chunks[0].subjects)
    }
    assert len(pairs) >= 8 and not pairs & HELD_OUT_COMBOS


def test_the_panorama_is_painted_once_for_all(monkeypatch):
    painted = []
    paint = scenery.paint_layers

    def counted(*args):
        painted.append(args)
        return paint(*args)

    monkeypatch.setattr(scenery, "paint_layers", counted)
    renderer.prepare.cache_clear()
    renderer._painted.cache_clear()
    pictures(5, 12, split="train", **SIZE)
    assert 1 <= len(painted) <= 2  # once for each state of the lamps


def test_a_recast_chunk_stands_in_the_scenery_of_the_scene():
    scene, other = make_story(1), make_story(2)
    light = scene.chunks[0].weather
    again = render(recast(scene, scene, 0, 0, light), [0, 20], **SIZE)
    np.testing.assert_array_equal(again, render(scene, [0, 20], **SIZE))
    story = recast(scene, other, 0, len(scene.places) - 1, light)
    assert story.places == scene.places and story.subjects == other.subjects
    facts = truth(story, [8], **SIZE)
    assert PLACES[facts.place[0]] == scene.places[-1].kind and facts.visible.any()
    travels = next(k for k, plan in enumerate(other.chunks) if plan.travel)
    with pytest.raises(ValueError, match="travels"):
        recast(scene, other, travels, 0, light)


def test_settled_frames_lie_between_arrivals_and_departures():
    for seed in range(20):
        for plan in make_story(seed).chunks:
            frames = settled(plan, 8)
            assert 1 <= frames[0] <= frames[-1] <= 32
            if any(b.enter for b in plan.actions):
                assert frames[0] >= 16
            if any(b.leave for b in plan.actions):
                assert frames[-1] <= 19
