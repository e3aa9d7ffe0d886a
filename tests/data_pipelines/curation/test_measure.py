"""What is measured of frames, on pictures where it is known; cuts where they were made."""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from bvjax.errors import UserError
from data_pipelines.curation.measure import (
    Measurer,
    bars,
    picture_hash,
    scorer,
    standing_still,
    text_share,
)
from data_pipelines.curation.probe import film_rows, probe
from data_pipelines.curation.scenes import scenes
from data_pipelines.curation.settings import Scenes
from tests.data_pipelines.curation.footage import FPS, barred, film, pan, still, texture, walker

SCALE = 480 / 96  # of the footage: lengths are told for a shorter side of 480


def grey(picture):
    return cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)


def measured(pictures, every=FPS // 2):
    measurer = Measurer(Scenes())
    return [measurer(picture) for picture in pictures[::every]]


def test_a_pan_is_the_cameras():
    """8 frames of half a pixel between samples are 4 pixels, 20 at a shorter side of 480."""
    last = measured(pan(1, 33, 0.5))[-1]
    assert last["flow"] == pytest.approx(4 * SCALE, rel=0.1)
    assert (
        last["camera"] == pytest.approx(4 * SCALE, rel=0.1)
        and last["subject"] < 0.1 * last["camera"]
    )


def test_who_walks_is_the_subject():
    """A square of 40 x 40 of 96 x 128 pixels moves 8; what it covers and uncovers adds a little."""
    last = measured(walker(1, 33))[-1]
    expected = 8 * SCALE * 1600 / (96 * 128)
    assert (
        last["subject"] == pytest.approx(expected, rel=0.35)
        and last["camera"] < 0.3 * last["subject"]
    )


def test_what_stands_still():
    sample = measured(still(2, 17))[-1]
    assert sample["flow"] < 0.05 and sample["still"][4] == 1 and set(sample["still"]) <= {0.0, 1.0}
    moving = [sample["still"] for sample in measured(pan(3, 200, 2.0))]
    assert np.mean(moving, axis=0).max() < 0.2
    one, other = np.zeros((2, 100, 100), bool)
    one[::4], other[2::4] = True, True
    assert standing_still(one, one) == [1.0] * 5 and standing_still(one, other) == [0.0] * 5


def test_bars():
    assert bars(grey(barred(still(4, 1))[0])) == pytest.approx((1 / 6, 1 / 6, 0, 0), abs=0.02)
    assert bars(grey(texture(4))) == (0, 0, 0, 0) and bars(np.zeros((20, 20), np.uint8)) == (
        0,
        0,
        0,
        0,
    )
    assert bars(np.pad(np.full((20, 10), 99, np.uint8), ((0, 0), (5, 5)))) == (0, 0, 0.25, 0.25)


def test_writing_is_found_and_texture_is_none():
    plain = np.full((240, 420), 90, np.uint8)
    written = plain.copy()
    for line in range(3):
        cv2.putText(
            written,
            "THE END OF THE FILM",
            (20, 60 + 60 * line),
            cv2.FONT_HERSHEY_SIMPLEX,
            1.0,
            255,
            2,
        )
    assert text_share(written) > 0.1
    assert text_share(plain) == 0 and text_share(grey(texture(5, (240, 420)))) < 0.01


def test_hashes_are_of_pictures_not_of_files():
    bits = lambda a, b: (int(picture_hash(a), 16) ^ int(picture_hash(b), 16)).bit_count()
    picture = grey(texture(6, (240, 320)))
    again = cv2.resize(
        cv2.convertScaleAbs(picture, alpha=0.9, beta=8), (160, 120), interpolation=cv2.INTER_AREA
    )
    assert bits(picture, again) <= 6 and bits(picture, grey(texture(7, (240, 320)))) > 16


def test_a_scorer_of_your_own(tmp_path, monkeypatch):
    (tmp_path / "own_scorer.py").write_text(
        "def score(frames):\n    return frames.mean((1, 2, 3)) / 255\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    score = scorer(Scenes(aesthetic="own_scorer:score"))
    assert score(np.full((4, 4, 3), 51, np.uint8)) == pytest.approx(0.2)
    with pytest.raises(UserError, match="handmade, laion or MODULE:FUNCTION"):
        scorer(Scenes(aesthetic="q-align"))


def test_cuts_are_where_they_were_made(tmp_path):
    """Shots of 24, 40 and 32 frames."""
    film(tmp_path / "a.mkv", pan(1, 24), pan(2, 40), walker(3, 32))
    (row,) = probe(film_rows(tmp_path)[0])
    assert (row["height"], row["width"], row["codec"], row["stated_fps"]) == (96, 128, "ffv1", 16)
    (row,) = scenes(row, Scenes())
    assert row["cuts"] == [24 / 16, 64 / 16]
    assert (row["frames"], row["seconds"], row["variable_rate"]) == (96, 6.0, False)
    assert row["fps"] == pytest.approx(16, abs=0.01)  # Matroska's times are milliseconds
    assert row["tracks"]["t"] == [t / 2 for t in range(12)]
    assert {len(values) for values in row["tracks"].values()} == {12}


def test_without_a_cut_there_is_none(tmp_path):
    film(tmp_path / "a.mkv", pan(1, 60))
    (row,) = scenes(probe(film_rows(tmp_path)[0])[0], Scenes())
    assert row["cuts"] == []


def test_transnet_needs_its_file(tmp_path):
    with pytest.raises(UserError, match="scenes.transnet"):
        scenes(
            {"stated_fps": 16, "path": "", "film": ""}, Scenes(transnet=str(tmp_path / "none.onnx"))
        )


def write(path, times, transfer=1):
    """A film whose frames are shown at these milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=16)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "bgr0"
        stream.codec_context.color_trc = transfer
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for picture, time in zip(pan(1, len(times)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(format="bgr0")
            frame.pts, frame.time_base, frame.color_trc = int(time), Fraction(1, 1000), transfer
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_variable_frame_rate_is_told_of(tmp_path):
    """Slow, then fast: samples are half a second apart all the same."""
    times = np.cumsum([0] + [125] * 16 + [50] * 40)
    write(tmp_path / "a.mkv", times)
    (row,) = scenes(probe(film_rows(tmp_path)[0])[0], Scenes())
    assert row["variable_rate"] and row["frames"] == 57
    assert (
        np.abs(np.array(row["tracks"]["t"]) - np.arange(len(row["tracks"]["t"])) / 2).max() < 0.13
    )


def test_hdr_is_refused(tmp_path):
    write(tmp_path / "a.mkv", range(0, 600, 60), transfer=16)
    with pytest.raises(UserError, match=r"it is HDR \(PQ\)"):
        probe(film_rows(tmp_path)[0])
