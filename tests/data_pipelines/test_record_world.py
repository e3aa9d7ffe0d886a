"""Rollouts as films: what was done is what the tracks and captions say, and the films are read as others are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bvjax.array_files import read_npz
from bvjax.errors import UserError
from bvjax.lvbench.dataset.examine import read
from bvjax.media.video_io import read_video
from data_pipelines import record_world
from data_pipelines.record_world import FPS, Tracks, World, captions, main, record_films


def counting(seed: int) -> World:
    """A world whose picture is as bright as its last action; it ends after 20 steps."""
    steps = [0]

    def reset():
        steps[0] = 0
        return np.full((32, 32, 3), 200, np.uint8)

    def step(action):
        steps[0] += 1
        return np.full((32, 32, 3), 40 * action, np.uint8), action / 2, steps[0] == 20

    return World(["stands", "walks", "jumps"], reset, step)


@pytest.fixture
def films(tmp_path, monkeypatch):
    monkeypatch.setitem(record_world.WORLDS, "counting", counting)
    assert record_films("counting", tmp_path, 2, 9, seed=5) == 2
    return tmp_path


def test_tracks_are_of_the_frames(films):
    path = films / "counting_000005.mp4"
    frames, fps = read_video(path)
    tracks = read_npz(path.with_suffix(".tracks.npz"))
    assert fps == FPS and len(frames) == len(tracks["actions"]) == len(tracks["rewards"]) == 72
    expected = np.where(tracks["actions"] < 0, 200, 40 * tracks["actions"])
    assert np.abs(frames.mean((1, 2, 3)) - expected).max() < 6
    np.testing.assert_array_equal(np.flatnonzero(tracks["actions"] < 0), [0, 21, 42, 63])
    np.testing.assert_allclose(tracks["rewards"], np.maximum(tracks["actions"], 0) / 2)


def test_films_have_lvbench_s_form(films):
    records = read(films)
    assert [record.name for record in records] == ["counting_000005", "counting_000006"]
    assert records[0].story.spans == ((0, 4), (4, 8), (8, 9))
    before = {path: path.read_bytes() for path in films.iterdir()}
    assert record_films("counting", films, 2, 9, seed=5) == 0
    assert {path: path.read_bytes() for path in films.iterdir()} == before
    assert json.loads((films / "counting_000005.json").read_text()) != json.loads(
        (films / "counting_000006.json").read_text()
    )


def test_captions_say_what_was_done_most():
    actions = np.array([-1] + [1] * 20 + [0] * 3 + [2] * 8 + [2] * 8, np.int32)
    told = captions(Tracks(actions, np.zeros(40, np.float32)), ["stands", "walks", "jumps"])
    assert told == [
        "The player walks, then jumps, then stands (00s - 03s).",
        "The player jumps (04s - 04s).",
    ]


def test_what_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="`world` is 'doom'; it can be crafter"):
        record_films("doom", tmp_path, 1, 1, 0)
    assert main([f"--out={tmp_path}", "--films=0"]) == 2
    assert "--films is 0; it can be 1 to 1000000" in capsys.readouterr().err
