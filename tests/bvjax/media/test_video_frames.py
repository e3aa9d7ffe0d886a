"""Frames of a video file: which stream, which times, what shape, and what is refused."""

import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bvjax.errors import UserError
from bvjax.lvbench.video import probe
from bvjax.media.source_video import read_frames
from bvjax.media.video_frames import location, timed_frames
from bvjax.media.video_io import VideoWriter, read_video


@pytest.mark.parametrize(
    "name", ["12:30 fox.mp4", "take:1.mp4", "http:.mp4", "pipe:.mp4", "file:a.mp4", "%d.mp4"]
)
def test_a_name_is_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with VideoWriter(name, 8) as writer:
        writer.write(np.zeros((3, 16, 24, 3), np.uint8))
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


def write(path, frames, fps=8, codec="libx264", format=None, pixel=None, transfer=None, cover=""):
    """A file; `cover`: "picture" or "stream", a still in front of the video, marked as one or not."""
    pix_fmt = {"mjpeg": "yuvj420p", "ffv1": "bgr0"}.get(codec, "yuv420p")
    options = {"movflags": "faststart"} if str(path).endswith("mp4") else {}
    with av.open(str(path), "w", format=format, options=options) as container:
        if cover:
            still = container.add_stream("png", rate=fps)
            still.width, still.height, still.pix_fmt = 512, 512, "rgb24"
            if cover == "picture":
                still.disposition = av.stream.Disposition.attached_pic
        stream = container.add_stream(codec, rate=fps, options={"g": "8"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if pixel:
            stream.codec_context.sample_aspect_ratio = Fraction(pixel)
        if transfer:
            stream.codec_context.color_trc = transfer
        if cover:
            picture = np.zeros((512, 512, 3), np.uint8)
            container.mux(still.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if transfer:
                frame.color_trc = transfer
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def noise(count, height=32, width=48):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.mark.parametrize("cover", ["picture", "stream"])
def test_a_cover_is_not_the_video(tmp_path, cover):
    path = write(tmp_path / "a.mp4", noise(9), cover=cover)
    assert [shown.size for shown in timed_frames(path)] == [(32, 48)] * 9
    assert len(read_video(path)[0]) == 9


def test_only_a_cover(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        still = container.add_stream("png", rate=1)
        still.width, still.height, still.pix_fmt = 16, 16, "rgb24"
        still.disposition = av.stream.Disposition.attached_pic
        picture = np.zeros((16, 16, 3), np.uint8)
        container.mux(still.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(still.encode())
    with pytest.raises(UserError, match="song.mp4: it has no video in it"):
        read_video(path)


def disc(height, width):
    y, x = np.mgrid[:height, :width]
    inside = ((y + 0.5) / height - 0.5) ** 2 + ((x + 0.5) / width - 0.5) ** 2 < 0.16
    return np.repeat(np.uint8(255 * inside)[None, ..., None], 3, axis=-1).repeat(3, axis=0)


@pytest.mark.parametrize(("width", "pixel"), [(32, "2"), (128, "1/2"), (44, "16/11")])
def test_pixels_are_square(tmp_path, width, pixel):
    path = write(tmp_path / "a.mp4", disc(64, width), pixel=pixel)
    shown = next(timed_frames(path))
    picture = shown.picture()
    assert shown.size == picture.shape[:2] == (64, 64)
    rows, columns = (np.flatnonzero((picture[..., 0] > 127).any(axis=a)) for a in (1, 0))
    assert abs(len(rows) - len(columns)) <= 2
    assert next(read_frames(path, 8, 32, 32)).shape == (32, 32, 3)
    assert (probe(path, tmp_path).height, probe(path, tmp_path).width) == (64, 64)


def test_almost_square_pixels_are_left_alone(tmp_path):
    plain, almost = (
        write(tmp_path / f"{name}.mp4", noise(3), pixel=pixel)
        for name, pixel in (("a", None), ("b", "1280/1281"))
    )
    np.testing.assert_array_equal(read_video(plain)[0], read_video(almost)[0])


def test_impossible_pixels(tmp_path):
    path = write(tmp_path / "a.mp4", noise(3), pixel="20")
    with pytest.raises(UserError, match="pixels are 20:1; they can be up to 8:1"):
        read_video(path)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
@pytest.mark.parametrize(
    "reader", [lambda p: probe(p, p), read_video, lambda p: next(read_frames(p, 8, 32, 32))]
)
def test_hdr_is_refused_by_name(tmp_path, transfer, name, reader):
    path = write(tmp_path / "a.mp4", noise(3), transfer=transfer)
    with pytest.raises(UserError, match=rf"a.mp4: it is HDR \({name}\)"):
        reader(path)


@pytest.mark.parametrize("shift", [0, 3600])
def test_clocks_that_jump(tmp_path, shift):
    """Two transport streams joined: the second begins at 0 again, or an hour later."""
    first = write(tmp_path / "a.ts", noise(40), format="mpegts")
    second = tmp_path / "b.ts"
    with av.open(str(first)) as source, av.open(str(second), "w", format="mpegts") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                ticks = int(shift / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                packet.stream = stream
                target.mux(packet)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    starts = [shown.start for shown in timed_frames(joined)]
    assert len(starts) == 80 and starts == [Fraction(i, 8) for i in range(80)]
    assert len(list(read_frames(joined, 8, 32, 48))) == 80
    assert probe(joined, joined).fps == 8


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mjpeg")],
)
def test_a_file_cut_short_is_told(tmp_path, suffix, codec):
    path = write(tmp_path / f"a.{suffix}", noise(80), codec=codec)
    assert probe(path, path).frames == 80
    path.write_bytes(path.read_bytes()[: int(0.55 * path.stat().st_size)])
    with pytest.raises(
        UserError,
        match="it should last 10.0 s, but only [56].* s of it can be .*: the file is cut short",
    ):
        probe(path, path)
    assert (
        len(list(zip(range(20), timed_frames(path), strict=False))) == 20
    )  # who needs its beginning has it


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    codecs = {
        "mp4": "libx264",
        "mkv": "ffv1",
        "webm": "libvpx-vp9",
        "avi": "mjpeg",
        "ts": "libx264",
    }
    made = [
        write(folder / f"a.{suffix}", noise(9, 16, 24), codec=c) for suffix, c in codecs.items()
    ]
    found = {path.suffix: path.read_bytes() for path in made}
    return lambda suffix=None: found[suffix] if suffix else sorted(found)  # without a long repr


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_bytes_are_a_video_or_refused(samples, tmp_path, data):
    """Flipped, cut, filled or foreign bytes: frames or one sentence, and nothing beside the file."""
    suffix = data.draw(st.sampled_from(samples()))
    content = bytearray(samples(suffix))
    for _ in range(data.draw(st.integers(0, 4))):
        start = data.draw(st.integers(0, len(content)))
        new = data.draw(st.binary(max_size=8))
        content[start : start + len(new)] = new
    del content[data.draw(st.just(len(content)) | st.integers(0, len(content))) :]
    for old in tmp_path.iterdir():
        old.unlink()
    path = tmp_path / f"any{suffix}"
    path.write_bytes(
        bytes(content) if data.draw(st.booleans()) else data.draw(st.binary(max_size=64))
    )
    readers = (
        lambda: [shown.picture() for shown in timed_frames(path)],
        lambda: probe(path, path),
        lambda: [next(read_frames(path, 8, 16, 16)), read_video(path)],
    )
    for read in readers:
        try:
            read()
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        except StopIteration:
            pytest.fail("no frame and no word")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
