"""Video files: what goes in comes out, and what was written before a kill can be watched."""

import errno
import io
import os
import subprocess
import sys
import warnings

import av
import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bvjax.errors import UserError
from bvjax.media import source_video, video_io
from bvjax.media.video_io import VideoWriter, check_writer, read_image, read_video

KILLED = """
import os, sys
import av
import numpy as np
from bvjax.media.video_io import VideoWriter
frames = np.linspace(0, 255, 40).astype(np.uint8)[:, None, None, None]
writer = VideoWriter(sys.argv[1], 8)
for start in range(0, 40, 10):
    writer.write(np.broadcast_to(frames[start:start + 10], (10, 32, 32, 3)))
os.kill(os.getpid(), 9)
"""


def smooth(frames, height=32, width=48):
    t, y, x = np.meshgrid(*(np.linspace(0, 3, n) for n in (frames, height, width)), indexing="ij")
    waves = np.stack([np.sin(t + y), np.cos(x - t), np.sin(x * y)], axis=-1)
    return (127 + 100 * waves).astype(np.uint8)


def test_round_trip(tmp_path):
    frames = smooth(21)
    with VideoWriter(tmp_path / "a.mp4", 8) as writer:
        writer.write(frames[:1])
        writer.write(frames[1:9])
        writer.write(frames[9:])
    read, rate = read_video(tmp_path / "a.mp4")
    assert read.shape == frames.shape and rate == 8
    assert np.abs(read.astype(int) - frames).mean() < 4
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]  # nothing temporary is left
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # the index is in front


def test_enlarged(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 8, scale=4) as writer:
        writer.write(smooth(3))
    read, _ = read_video(tmp_path / "a.mp4")
    assert read.shape == (3, 128, 192, 3)
    assert np.abs(read[:, 2::4, 2::4].astype(int) - smooth(3)).mean() < 6
    assert [video_io.watchable_scale(h, 64) for h in (16, 64, 256)] == [16, 4, 4]
    assert video_io.watchable_scale(480, 832) == 1


def test_playable_after_a_kill(tmp_path):
    path = tmp_path / "killed.mp4"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment(), check=False)
    assert done.returncode == -9
    read, rate = read_video(path)
    assert 24 <= len(read) <= 40 and rate == 8  # at most the last second and a bit is lost
    assert np.all(np.diff(read.mean(axis=(1, 2, 3))) > 0)


def environment():
    root = str(video_io.__file__).rsplit("/bvjax/", 1)[0]
    return os.environ | {"PYTHONPATH": root}


def test_an_error_keeps_what_was_written(tmp_path):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4", 2) as writer:
        writer.write(smooth(9))
        raise RuntimeError
    assert len(read_video(tmp_path / "a.mp4")[0]) >= 6


def test_cannot_write_or_read(tmp_path):
    with pytest.raises(UserError, match="cannot write the video"):
        with VideoWriter(tmp_path / "missing" / "a.mp4", 8) as writer:
            writer.write(smooth(2))
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(UserError, match="cannot read the video"):
        read_video(tmp_path / "a.mp4")


def test_check_writer(tmp_path, monkeypatch):
    check_writer(tmp_path, 32, 48, 8)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(video_io, "read_video", lambda path: (np.zeros((1, 2, 2, 3)), 8.0))
    with pytest.raises(UserError, match="of 2 test frames 1"):
        check_writer(tmp_path, 32, 48, 8)


def test_images(tmp_path):
    picture = smooth(1)[0]
    PIL.Image.fromarray(picture).save(tmp_path / "same.png")
    np.testing.assert_array_equal(read_image(tmp_path / "same.png", 32, 48), picture)
    grey = PIL.Image.fromarray(picture[..., 0]).resize((96, 96))
    grey.save(tmp_path / "grey.jpg")
    resized = read_image(tmp_path / "grey.jpg", 32, 48)
    assert resized.shape == (32, 48, 3) and resized.dtype == np.uint8
    clear = PIL.Image.new("RGBA", (48, 32), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", 32, 48).min() == 255  # on white


def test_wrong_kinds_of_images(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    PIL.Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tiff")
    frames = [PIL.Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    PIL.Image.fromarray(smooth(1)[0]).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    for name, says in (
        ("text.png", "is not an image"),
        ("float.tiff", "pixels of kind F"),
        ("moving.gif", "animation of 2 frames"),
        ("cut.png", "cannot read the image"),
        ("missing.png", "No such file"),
    ):
        with pytest.raises(UserError, match=says):
            read_image(tmp_path / name, 32, 48)


def test_what_is_written_says_what_its_numbers_mean(tmp_path):
    """And means it: pixels are those of a file without marks, as FFmpeg converts by default."""
    frames = smooth(5)
    with VideoWriter(tmp_path / "a.mp4", 8) as writer:
        writer.write(frames)
    source_video.write_copy(tmp_path / "a.mkv", frames, 8)
    for name, matrix, wide in (("a.mp4", 5, 1), ("a.mkv", 0, 2)):
        with av.open(str(tmp_path / name)) as container:
            about = container.streams.video[0].codec_context
            frame = next(container.decode(video=0))
        for one in (about, frame):
            assert (one.color_primaries, one.color_trc) == (1, 13)  # BT.709's, sRGB's
            assert (one.colorspace, one.color_range) == (matrix, wide)
    plain = tmp_path / "plain.mp4"
    with av.open(str(plain), "w") as container:
        stream = container.add_stream("libx264", rate=8, options=video_io._CODEC)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.gop_size = 8
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    np.testing.assert_array_equal(read_video(tmp_path / "a.mp4")[0], read_video(plain)[0])
    np.testing.assert_array_equal(read_video(tmp_path / "a.mkv")[0], frames)


def test_the_first_picture_of_an_mpo(tmp_path):
    """The form in which telephones write JPEG."""
    one, other = (PIL.Image.new("RGB", (32, 16), colour) for colour in ("red", "blue"))
    one.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[other])
    with PIL.Image.open(tmp_path / "a.jpg") as image:
        assert image.n_frames == 2
    assert read_image(tmp_path / "a.jpg", 16, 32).mean((0, 1)).round().tolist() == [254, 0, 0]


def picture_bytes(kind):
    buffer = io.BytesIO()
    PIL.Image.fromarray(smooth(1)[0]).save(buffer, kind)
    return buffer.getvalue()


PICTURES = {kind: picture_bytes(kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP")}


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_bytes_are_a_picture_or_refused(tmp_path, data):
    content = bytearray(PICTURES[data.draw(st.sampled_from(sorted(PICTURES)))])
    for _ in range(data.draw(st.integers(0, 4))):
        start = data.draw(st.integers(0, min(len(content), 400)))
        new = data.draw(st.binary(max_size=4))
        content[start : start + len(new)] = new
    path = tmp_path / "a.png"
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert read_image(path, 16, 24).shape == (16, 24, 3)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_full_disk_is_told_as_one(tmp_path, monkeypatch):
    """Not as something the user got wrong: the command line says how to go on."""
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    for code, kind in ((errno.ENOSPC, OSError), (errno.EACCES, UserError)):

        def refused(*_, code=code):
            raise av.FFmpegError(code, os.strerror(code))

        monkeypatch.setattr(video_io, "enlarged", refused)
        with (
            pytest.raises(kind, match=os.strerror(code)) as told,
            VideoWriter(tmp_path / "a.mp4", 8) as writer,
        ):
            writer.write(frames)
        assert getattr(told.value, "errno", code) == code and "a.mp4" in str(told.value)
