"""A video of any rate, size and angle becomes frames of the wanted ones; copies are exact."""

from fractions import Fraction

import av
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.media import source_video
from bvjax.media.source_video import read_copy, read_frames, write_copy


def grey(count, height=32, width=48):
    """Frames whose brightness tells their number."""
    level = (10 + 5 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(level[:, None, None, None], (count, height, width, 3))


def write(path, frames, rate=8, times=None):
    """An mp4 of `frames`, with `times` in units of a 1/240 s where they are not regular."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "4"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 240)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 240)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(path, fps):
    """Which frames of a `grey` video are taken."""
    levels = [f.mean() for f in read_frames(path, fps, 32, 48)]
    return np.round((np.array(levels) - 10) / 5).astype(int).tolist()


@pytest.mark.parametrize(
    ("rate", "count", "fps", "want"),
    [
        (8, 9, 8, list(range(9))),
        (24, 25, 8, list(range(0, 25, 3))),  # 1 s and a frame are 1 s and a frame at any rate
        (8, 3, 16, [0, 0, 1, 1, 2, 2]),
        (16, 8, 24, [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7]),
        (Fraction(24000, 1001), 25, 24, list(range(25))),
    ],
)
def test_nearest_frames_in_time(tmp_path, rate, count, fps, want):
    assert numbers(write(tmp_path / "a.mp4", grey(count), rate), fps) == want


def test_a_changing_rate(tmp_path):
    times = [0, 30, 60, 180, 240, 245, 270]  # at 8 fps frames are due every 30 units
    found = numbers(write(tmp_path / "a.mp4", grey(7), times=times), 8)
    assert found[:9] == [0, 1, 2, 2, 2, 3, 3, 3, 4]  # 120 and 210 are as far from 60, 180 and 240
    assert found[9] == 6


def test_millisecond_times_make_no_extra_frame(tmp_path):
    for count in range(1, 9):
        write_copy(tmp_path / "a.mkv", grey(count), 24)
        assert numbers(tmp_path / "a.mkv", 24) == list(range(count))


def test_cut_to_the_middle_and_resized(tmp_path):
    wide = np.zeros((2, 32, 96, 3), np.uint8)
    wide[:, :, 24:72] = 200  # the middle in the wanted proportions
    frame = next(read_frames(write(tmp_path / "a.mp4", wide), 8, 64, 96))
    assert frame.shape == (64, 96, 3) and np.abs(frame[:, 4:-4].astype(int) - 200).max() < 4
    assert source_video.frame_size(tmp_path / "a.mp4") == (32, 96)


def test_a_telephone_held_upright(tmp_path):
    frames = np.zeros((2, 32, 48, 3), np.uint8)
    frames[:, :16] = 200
    path = write(tmp_path / "a.mp4", frames)
    content = path.read_bytes()
    place = content.index((1 << 16).to_bytes(4) + bytes(12), content.index(b"tkhd"))
    turned = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]  # to be turned right by 90 degrees
    matrix = b"".join(v.to_bytes(4, signed=True) for v in turned)
    path.write_bytes(content[:place] + matrix + content[place + 36 :])
    assert source_video.frame_size(path) == (48, 32)
    frame = next(read_frames(path, 8, 48, 32)).astype(int)
    assert frame[:, 18:].min() > 190 and frame[:, :14].max() < 10  # what was above is right


def test_copies_are_exact(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3)).astype(np.uint8)
    write_copy(tmp_path / "copy.mkv", iter(frames), 24)
    np.testing.assert_array_equal(list(read_copy(tmp_path / "copy.mkv")), frames)
    with pytest.raises(UserError, match="cannot write the video"):
        write_copy(tmp_path / "missing" / "copy.mkv", frames, 24)


def test_what_is_not_a_video(tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    content = write(tmp_path / "cut.mp4", grey(20)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 3])
    for name, says in (
        ("text.mp4", "cannot read the video .*text.mp4: Invalid data"),
        ("empty.mp4", "cannot read the video"),
        ("sound.mp4", "has no video in it"),
        ("cut.mp4", "cannot read the video"),
        ("missing.mp4", "No such file"),
        ("", "Is a directory|cannot read the video"),
    ):
        with pytest.raises(UserError, match=says):
            next(read_frames(tmp_path / name, 8, 32, 48))
