"""Videos with a known defect: nothing before its chunk, the defect alone from there on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.lvbench.clarity import clarity
from bvjax.lvbench.video import load_truth, probe
from bvjax.media.video_io import read_video
from data_pipelines.storyworld.defects import DEFECTS, main, make_take, shots
from data_pipelines.storyworld.renderer import render
from data_pipelines.storyworld.truth import truth

FIRST = 12  # chunk 3 of 4 of six frames each


@pytest.fixture(scope="module")
def take():
    return make_take("steady", seed=2, seconds=4, chunk=3, segments=4, size=48, fps=6)


@pytest.fixture(scope="module")
def made(take):
    return {defect: list(shots(take, defect)) for defect in DEFECTS}


def pictures(shots):
    return np.stack([shot.picture for shot in shots]).astype(int)


def test_the_same_before_another_from_there_on(take, made):
    plain = render(take.story, range(24), **take.size)
    assert take.first == FIRST and len(plain) == take.frames
    for defect, result in made.items():
        same = (pictures(result) == plain).all((1, 2, 3))
        assert same[:FIRST].all(), defect
        assert same.all() if defect == "none" else same[FIRST:].sum() <= 2, defect


def test_truth_goes_with_the_pictures(take, made):
    facts = truth(take.story, range(24), masks=True, **take.size)
    for defect, result in made.items():
        boxes = np.stack([shot.box for shot in result])
        assert np.isfinite(boxes).all()  # in view all the time
        np.testing.assert_array_equal(boxes[:FIRST], facts.boxes[:FIRST, 0])
        for shot in result:
            rows, columns = np.nonzero(~shot.background)
            x0, y0, x1, y1 = shot.box
            assert columns.min() + 1 >= x0 and columns.max() <= x1, defect
            assert rows.min() + 1 >= y0 and rows.max() <= y1, defect


def test_jitter_moves_picture_box_and_mask_together(take, made):
    jumps = []
    for shaken, still in zip(made["jitter"][FIRST:], made["none"][FIRST:], strict=True):
        right, down = np.round(shaken.box - still.box).astype(int)[:2]
        jumps.append((right, down))
        for name in ("picture", "background"):
            moved = np.roll(getattr(still, name), (down, right), (0, 1))
            np.testing.assert_array_equal(
                getattr(shaken, name)[4:-4, 4:-4], moved[4:-4, 4:-4], name
            )
    assert len(set(jumps)) > 4 and np.abs(jumps).max() == 1


def test_each_defect_is_what_it_says(take, made):
    plain = pictures(made["none"])
    sharp = np.array([clarity(f[None])[0] for f in pictures(made["blur"]).astype(np.uint8)])
    assert (sharp[FIRST:] < 0.8 * sharp[:FIRST].min()).all() and sharp[-1] < 0.4 * sharp[FIRST]
    colour = pictures(made["colour"])
    for t, fade, warm in ((FIRST, 0.3, 0.06), (23, 0.8, 0.25)):
        grey = plain[t] @ [0.299, 0.587, 0.114]
        faded = (1 - fade) * plain[t] + fade * grey[..., None]
        expected = np.clip(faded * [1 + warm, 1, 1 - warm], 0, 255)
        assert np.abs(colour[t] - expected).max() < 1
    frozen = pictures(made["freeze"])
    assert (frozen[FIRST:] == plain[FIRST]).all()
    for swapped, own in zip(made["swap"][FIRST:], made["none"][FIRST:], strict=True):
        off = np.abs(swapped.picture.astype(int) - own.picture).max(-1) > 40
        inside = ~(swapped.background & own.background)
        assert off[inside].mean() > 0.4 and off[~inside].mean() < 0.1
    melted, background = pictures(made["melt"]), made["none"][FIRST].background
    off = np.abs(melted - plain).max(-1)[FIRST:]
    core = ~np.stack([s.background for s in made["melt"][FIRST:]])
    assert off[:, background].mean() > 3 * off[core].mean()


def test_files_are_what_the_evaluator_reads(tmp_path, capsys):
    words = ["--out", str(tmp_path), "--defect", "none,freeze", "--size", "32", "--seconds", "3"]
    assert main([*words, "--fps", "4", "--chunks", "4", "--chunk", "4", "--take", "story"]) == 0
    manifest = json.loads((tmp_path / "defects.json").read_text())
    assert manifest["videos"]["freeze.mp4"] == {"defect": "freeze", "chunk": 4, "frame": 9}
    assert manifest["videos"]["none.mp4"]["chunk"] is None and manifest["chunks"] == 4
    video = probe(tmp_path / "freeze.mp4", tmp_path)
    assert (video.frames, video.fps, video.height) == (12, 4.0, 32)
    result = load_truth(video)
    take = make_take("story", 0, 3, 4, 4, 32, 4)
    held = list(shots(take, "freeze"))
    np.testing.assert_array_equal(result["boxes"], [shot.box for shot in held])
    np.testing.assert_array_equal(result["background"], [shot.background for shot in held])
    frames = read_video(video.path)[0]
    assert np.abs(frames.astype(int) - pictures(held))[:9].mean() < 6  # H.264, half the colours


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--defect", "rust"], "the defect is 'rust'; it can be all or none, blur, colour"),
        (["--chunk", "1"], "the chunk is 1; a defect can begin in chunk 2 to 10"),
        (["--seconds", "1"], "8 frames cannot be cut into 10 chunks of at least 2"),
        (["--size", "8"], "frames must be 16x16 to 4096x4096 pixels, got 8x8"),
        (["--size", "9" * 20], "frames must be 16x16 to 4096x4096 pixels, got 999"),
        (["--fps", "9" * 20], "fps must be 1 to 240, got 999"),
        (["--seconds", "1e30"], "the video would last 1e+30 s; it can last more than 0"),
        (["--seconds", "nan"], "the video would last nan s; it can last more than 0"),
        (["--seed", "-1"], "seed must be 0 to 9223372036854775807, got -1"),
        (["--seed", "9" * 20], "seed must be 0 to 9223372036854775807, got 999"),
        (["--take", "walk"], "the take is 'walk'; it can be steady or story"),
        (["--take", "story", "--seconds", "99"], "a story has 481 frames at 8 fps, not 792"),
    ],
)
def test_bad_numbers_are_refused(tmp_path, capsys, words, message):
    assert main(["--out", str(tmp_path / "out"), *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def test_an_unknown_defect_is_refused(take):
    with pytest.raises(UserError, match="the defect is 'x'"):
        next(shots(take, "x"))
