"""Frames of a video file: which stream, which times, what shape, and what is refused."""

import pathlib

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.generate.video_io import VideoWriter, read_video
from bvjax.video_frames import location


@pytest.mark.parametrize(
    "name", ["12:30 fox.mp4", "take:1.mp4", "http:.mp4", "pipe:.mp4", "file:a.mp4", "%d.mp4"]
)
def test_a_name_is_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with VideoWriter(name, 8) as writer:
        writer.write(write_levels())
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert len(read_video(name)[0]) == 3
    folder = tmp_path / "take:1"
    folder.mkdir()
    (folder / "a.mp4").write_bytes((tmp_path / name).read_bytes())
    assert len(read_video("take:1/a.mp4")[0]) == 3


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/a.mp4", "rtsp://x/y", "tcp://x", "s3://bucket/a"]
)
@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_addresses_are_refused(address, kind):
    with pytest.raises(UserError, match=f"^{address} is an address; the path of a file is wanted"):
        location(kind(address))


def write_levels():
    return np.zeros((3, 16, 24, 3), np.uint8)
