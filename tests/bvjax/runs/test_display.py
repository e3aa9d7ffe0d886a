"""What notebooks show of a video: a player with the film inside, strips, the memory in pictures."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.generate.chunk_memory import ChunkMemory, Retrieved
from bvjax.media.video_io import read_video
from bvjax.runs.report import display

FRAMES = np.random.default_rng(0).integers(0, 255, (9, 32, 48, 3), np.uint8)


def test_a_player_has_the_film_inside_and_no_markup_of_captions(tmp_path):
    page = display.player(FRAMES, 8, '<script>"fox"')
    assert "<script>" not in page and "&lt;script&gt;&quot;fox&quot;" in page
    (film,) = re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)
    path = tmp_path / "film.mp4"
    path.write_bytes(base64.b64decode(film))
    frames, rate = read_video(path)
    assert frames.shape == (9, 12 * 32, 12 * 48, 3) and rate == 8


def test_a_strip_has_the_first_and_the_last_frame():
    flat = np.stack([np.full((8, 16, 3), level, np.uint8) for level in (10, 90, 20, 90, 30)])
    strip = np.asarray(display.filmstrip(flat, 3, height=4))
    assert strip.shape == (4, 24, 3)
    assert strip[2, 4::8, 0].tolist() == [10, 20, 30]
    with pytest.raises(UserError, match="count is 6; it must be from 1 to 5, the frames there are"):
        display.filmstrip(flat, 6)


def test_a_map_is_drawn_of_any_number_of_chunks():
    empty = ChunkMemory((), (1.0,), (False,), (1.0,))
    seen = ChunkMemory(
        (Retrieved(0, "anchor", 0.0), Retrieved(1, "recent", 0.5)), (1.0,), (False,), (1.0,)
    )
    few, many = display.retrieval_map([empty, seen]), display.retrieval_map([seen] * 15)
    assert few.width < many.width and np.asarray(few.convert("RGB")).std() > 5
    with pytest.raises(UserError, match="no chunk whose memory could be drawn"):
        display.retrieval_map([])


def test_kept_tokens_are_bright_and_the_others_dim():
    kept = np.zeros((2, 1, 2, 2), bool)
    kept[:, 0, 0, 0] = True
    kept[0, 0, 1, 1] = True
    row = np.asarray(display.kept_picture(np.full((1, 8, 8, 3), 200, np.uint8), kept, height=8))
    assert row[0, 0, 0] == 200 and row[0, 7, 0] == 50 and row[7, 7, 0] == 125


def test_pictures_can_be_saved():
    buffer = io.BytesIO()
    display.retrieval_map([ChunkMemory((), (1.0,), (False,), (1.0,))]).save(buffer, "PNG")
    assert buffer.getvalue().startswith(b"\x89PNG")
