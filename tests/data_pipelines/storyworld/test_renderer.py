"""Pictures and ground truth: determinism, random access, agreement, separable colours."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from data_pipelines.storyworld import (
    COLOUR_RGB,
    PLACES,
    SPECIES,
    WEATHERS,
    make_story,
    num_frames,
    render,
    truth,
)
from data_pipelines.storyworld.__main__ import main
from data_pipelines.storyworld.motion import Pose, moment_at
from data_pipelines.storyworld.renderer import prepare
from data_pipelines.storyworld.rig import bounds, paint
from data_pipelines.storyworld.shapes import Canvas, ellipse_distance, polygon_distance
from data_pipelines.storyworld.sprites import build
from data_pipelines.storyworld.weather import grade
from data_pipelines.storyworld.world import Subject

SIZE = dict(height=48, width=64)


@pytest.fixture(scope="module")
def changing():
    """A story whose weather changes and whose camera travels."""
    return next(
        s
        for s in map(make_story, range(100))
        if len({c.weather for c in s.chunks}) == 2 and len(s.places) > 1
    )


@pytest.fixture(scope="module")
def whole(changing):
    return render(changing, fps=2, **SIZE)


def test_shape_and_type(changing, whole):
    assert whole.shape == (num_frames(changing, 2), 48, 64, 3) and whole.dtype == np.uint8
    assert whole.std() > 20


def test_random_access_equals_the_whole_bit_for_bit(changing, whole):
    order = np.random.default_rng(0).permutation(len(whole))[:40]
    assert np.array_equal(render(changing, order, fps=2, **SIZE), whole[order])


def test_a_fresh_preparation_draws_the_same(changing, whole):
    prepare.cache_clear()
    assert np.array_equal(render(changing, [7, 60], fps=2, **SIZE), whole[[7, 60]])


def test_frame_rates_agree_on_common_moments(changing, whole):
    assert np.array_equal(render(changing, [4, 40, 100], fps=4, **SIZE), whole[[2, 20, 50]])


def test_frames_outside_the_story_are_refused(changing):
    with pytest.raises(ValueError, match="frame 121 is outside"):
        render(changing, [121], fps=2, **SIZE)
    with pytest.raises(ValueError, match="16x16 to 4096x4096"):
        render(changing, [0], height=8, width=8)


def test_masks_lie_in_boxes_and_background_is_the_rest(changing):
    fact = truth(changing, range(0, 121, 5), fps=2, masks=True, **SIZE)
    assert np.array_equal(fact.background, ~fact.subject_masks.any(1))
    assert (fact.subject_masks.sum(1) <= 1).all()
    for boxes, masks in zip(fact.boxes, fact.subject_masks, strict=True):
        for (x0, y0, x1, y1), mask in zip(boxes, masks, strict=True):
            rows, columns = np.nonzero(mask)
            if len(rows):
                assert columns.min() + 1 >= x0 and columns.max() <= x1
                assert rows.min() + 1 >= y0 and rows.max() <= y1
    for n, s in zip(*np.nonzero(fact.visible), strict=True):
        assert fact.subject_masks[n, s].sum() > 40


def test_masks_point_at_the_pixels_that_a_subject_changes(changing):
    """The same subject in another colour differs inside its mask (and its soft edge) only."""
    other = dataclasses.replace(changing.subjects[0], colour="pink")
    if changing.subjects[0].colour == "pink":
        other = dataclasses.replace(other, colour="green")
    repainted = dataclasses.replace(changing, subjects=(other, *changing.subjects[1:]))
    size = dict(height=64, width=64, fps=2)
    changed = np.abs(
        render(changing, [3], **size)[0].astype(int) - render(repainted, [3], **size)[0]
    )
    mask = truth(changing, [3], masks=True, **size).subject_masks[0, 0]
    grown = mask.copy()
    for axis in (0, 1):
        grown |= np.roll(grown, 1, axis) | np.roll(grown, -1, axis)
    assert not (changed.max(-1) > 12)[~grown].any()
    assert (changed.max(-1) > 25)[mask].mean() > 0.5


def test_weather_and_place_indices(changing):
    fact = truth(changing, fps=2)
    names = [WEATHERS[w] for w in fact.weather]
    assert names[0] == changing.chunks[0].weather and names[-1] == changing.chunks[-1].weather
    assert {PLACES[p] for p in fact.place} <= {p.kind for p in changing.places}
    assert fact.places_visible[np.arange(len(fact.place)), fact.place].all()


@pytest.mark.slow
def test_truth_is_what_the_pixels_show_where_two_meet_at_the_edge():
    """Each subject is painted in another colour: where the picture changes it is on stage, alone."""
    frames, shares = 0, []
    for story in map(make_story, range(40)):
        result = truth(story, fps=2)
        crowded = np.flatnonzero((result.boxes[..., 2] > result.boxes[..., 0]).sum(1) == 2)[::5]
        if not len(crowded):
            continue
        fact = truth(story, crowded, masks=True, fps=2)
        plain = render(story, crowded, fps=2).astype(int)
        for i, subject in enumerate(story.subjects):
            other = dataclasses.replace(
                subject, colour="cyan" if subject.colour != "cyan" else "red"
            )
            cast = [other if k == i else s for k, s in enumerate(story.subjects)]
            painted = render(dataclasses.replace(story, subjects=tuple(cast)), crowded, fps=2)
            changed = np.abs(painted - plain).max(-1) > 12
            for t, mask in enumerate(fact.subject_masks[:, i]):
                grown = np.pad(mask, 1)
                for axis in (0, 1):
                    grown = grown | np.roll(grown, 1, axis) | np.roll(grown, -1, axis)
                assert not changed[t][~grown[1:-1, 1:-1]].any()
                rows, columns = np.nonzero(changed[t])
                if len(rows):
                    x0, y0, x1, y1 = fact.boxes[t, i]
                    assert x0 < columns.min() + 1 and columns.max() < x1
                    assert y0 < rows.min() + 1 and rows.max() < y1
                x0, y0, x1, y1 = fact.boxes[t, i]
                if x1 > x0:
                    shares.append((mask.sum() / ((x1 - x0) * (y1 - y0)), fact.visible[t, i]))
        frames += len(crowded)
        if frames > 40:
            break
    share, visible = map(np.array, zip(*shares, strict=True))
    # of its box a subject fills a half, and what is said to be hidden or outside shows little of it
    assert (~visible).sum() > 10 and share[visible].min() > 0.25 and share[visible].mean() > 0.5
    assert share[~visible].mean() < 0.5 * share[visible].mean()


def test_eyes_are_open_in_frame_0():
    for story in map(make_story, range(30)):
        assert all(placed.pose.shut < 0.5 for placed in moment_at(story, 0).placed)


@pytest.mark.parametrize("weather", WEATHERS)
def test_colours_stay_apart_in_every_light(weather):
    rgb = np.array(list(COLOUR_RGB.values()), np.float32)[None] / 255
    lit = 255 * grade(np.concatenate([rgb, np.ones((1, 8, 1), np.float32)], -1), weather)[0, :, :3]
    gap = np.linalg.norm(lit[:, None] - lit[None], axis=-1) + 1000 * np.eye(8)
    assert gap.min() > 50


def test_silhouettes_differ_between_species():
    shapes = []
    for species in SPECIES:
        canvas = Canvas(0.0, 0.0, 1 / 64, 64, 64)
        parts = build(Subject("", species, "red", "none", 0.44), Pose(), 0.5, 0.86, 1.0)
        paint(canvas, parts)
        shapes.append(canvas.rgba[..., 3] > 0.5)
        x0, y0, x1, y1 = bounds(parts)
        assert 0.28 < y1 - y0 < 0.62 and x1 - x0 < 0.66, species
    for i, a in enumerate(shapes):
        for b in shapes[:i]:
            assert (a & b).sum() / (a | b).sum() < 0.75


def test_main_colour_covers_most_of_every_subject():
    for species in SPECIES:
        canvas = Canvas(0.0, 0.0, 1 / 64, 64, 64)
        paint(canvas, build(Subject("", species, "blue", "none", 0.44), Pose(), 0.5, 0.86, 1.0))
        pixels = canvas.rgba[canvas.rgba[..., 3] > 0.95]
        assert (pixels[:, 2] > 1.5 * pixels[:, 0]).mean() > 0.5, species


def test_distances_are_negative_inside_and_exact_outside():
    x, y = np.meshgrid(np.linspace(-2, 2, 41), np.linspace(-2, 2, 41))
    square = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    inside = (np.abs(x) < 0.99) & (np.abs(y) < 0.99)
    d = polygon_distance(x[:1], y[:, :1], square)
    assert (d[inside] < 0).all() and np.isclose(d[0, 0], np.sqrt(2), atol=1e-5)
    d = ellipse_distance(x, y, 0.0, 0.0, 1.0, 1.0)
    assert np.allclose(d, np.hypot(x, y) - 1, atol=1e-4)


def test_command_line_writes_captions_and_refuses_nonsense(tmp_path, capsys):
    path = tmp_path / "story.json"
    assert main(["--story-json", str(path), "--seed", "5"]) == 0
    assert json.loads(path.read_text())["captions"] == list(make_story(5).captions)
    assert main(["--story-json", str(tmp_path / "new" / "story.json")]) == 0
    capsys.readouterr()
    assert main(["--story-json", "/proc/no/story.json"]) == 2
    assert capsys.readouterr().err == "error: cannot use /proc/no: No such file or directory\n"
    assert main(["--seed", "-1", "--story-json", str(path)]) == 2
    assert "seed must be 0 to" in capsys.readouterr().err
    assert main(["--preview", "--size", "-3", "--out", str(tmp_path / "out")]) == 2
    assert "frames must be 16x16 to 4096x4096 pixels, got -3x-3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for words in ([], ["--story-json", ""], ["--preview", "--out", " "]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2


@pytest.mark.slow
def test_subjects_are_large_and_slow_for_a_latent():
    """At 64x64 a subject is two thirds of the frame high, and half a second is no smear."""
    heights = []
    for story in map(make_story, range(8)):
        facts = truth(story)
        heights += list((facts.boxes[..., 3] - facts.boxes[..., 1])[facts.visible] / 64)
        moments = [moment_at(story, frame) for frame in range(num_frames(story))]
        asleep = story.chunks[0].actions[0].action == "sleep"
        assert asleep or moments[0].placed[0].pose.shut == 0
        for now, later in zip(moments, moments[4:], strict=False):
            assert abs(later.camera.x - now.camera.x) < 0.6
            where = {p.subject: p.x - now.camera.x for p in now.placed}
            for p in later.placed:
                if p.subject in where and now.camera == later.camera:
                    assert abs(p.x - later.camera.x - where[p.subject]) < 0.6
    assert 0.55 < np.median(heights) < 0.75
