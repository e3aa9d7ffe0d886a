"""`generate --preview`: the file is there while a chunk is made, and the video is the same."""

import io
import json

import numpy as np
import PIL.Image
import pytest

from bvjax import cli
from bvjax.runs import preview_file
from bvjax.runs.create import create_run
from bvjax.runs.preview_file import PreviewFile
from tests.bvjax.runs.conftest import latents


def test_the_file_comes_and_goes(bundle, story, tmp_path, caplog):
    with create_run(bundle, bundle.model, story, tmp_path / "run") as run:
        with PreviewFile(run) as shown:
            shown(np.int32(1), np.int32(0), np.full((2, 4, 4, 3), 200, np.uint8))
            picture = PIL.Image.open(io.BytesIO(shown.path.read_bytes()))
            assert picture.size == (256, 256) and abs(picture.getpixel((9, 9))[0] - 200) < 4
            shown(np.int32(1), np.int32(1), "no picture")  # says so, and the program goes on
        assert not shown.path.exists() and "no preview" in caplog.text


@pytest.mark.slow
def test_a_video_that_is_watched_is_the_same(tiny, tmp_path, monkeypatch):
    story, seen = tmp_path / "story.json", []
    story.write_text(json.dumps(list(tiny.captions[:2])))
    own = PreviewFile.__call__

    def told(self, chunk, step, colours):
        own(self, chunk, step, colours)
        seen.append((int(chunk), int(step), self.path.exists()))

    monkeypatch.setattr(PreviewFile, "__call__", told)
    for name, options in (("plain", []), ("watched", ["--preview"])):
        command = ["generate", "--weights", str(tiny.weights), "--story", str(story)]
        assert cli.main([*command, "--out", str(tmp_path / name), *options]) == 0
    assert latents(tmp_path / "plain") == latents(tmp_path / "watched")
    assert sorted(seen) == [(chunk, step, True) for chunk in range(3) for step in range(4)]
    assert not (tmp_path / "watched" / preview_file.NAME).exists()
