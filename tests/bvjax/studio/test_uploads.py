"""Uploads: kinds by content, sizes, and nothing left of what is refused."""

import asyncio
import io

import av
import numpy as np
import PIL.Image
import pytest

from bvjax.errors import UserError
from bvjax.studio import fragments, uploads
from bvjax.studio.uploads import Uploads


def image(kind="PNG", size=(8, 6)):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, "red").save(buffer, kind)
    return buffer.getvalue()


def video():
    return fragments.encode(np.zeros((4, 32, 32, 3), np.uint8), 8)


def take(folder, content, kind, part=7):
    async def body():
        for start in range(0, len(content), part):
            yield content[start : start + part]

    return asyncio.run(Uploads(folder).take(body(), kind))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_images(tmp_path, kind):
    name = take(tmp_path, image(kind), "image")
    assert Uploads(tmp_path).path(name, "image").read_bytes() == image(kind)


def test_videos(tmp_path):
    name = take(tmp_path, video(), "video")
    assert name.endswith(".mp4") and Uploads(tmp_path).path(name, "video").is_file()


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (b"", "image", "no image of a kind"),
        (b"GIF89a" + b"\0" * 40, "image", "no image of a kind"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image", "no image of a kind"),
        (b"#EXTM3U\nfile:///etc/passwd\n" * 3, "video", "no video of a kind"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "video", "no video of a kind"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "image", "the image cannot be read"),
        (b"\0\0\0\x18ftypmp42" + b"\0" * 40, "video", "cannot read the video that was uploaded"),
        (image(), "video", "no video of a kind"),
        (image(), "page", "kind must be image or video"),
    ],
)
def test_what_is_refused(tmp_path, content, kind, says):
    with pytest.raises(UserError, match=says):
        take(tmp_path, content, kind)
    assert not any(tmp_path.iterdir())


def test_what_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setitem(uploads.LARGEST, "image", 40)
    with pytest.raises(UserError, match="too large: it can have 40 bytes"):
        take(tmp_path, image(), "image")
    monkeypatch.setitem(uploads.LARGEST, "image", 1 << 20)
    monkeypatch.setattr(uploads, "MOST_PIXELS", 40)
    with pytest.raises(UserError, match="the image is 8x6"):
        take(tmp_path, image(), "image")
    monkeypatch.setattr(uploads, "MOST_KEPT", 10)
    with pytest.raises(UserError, match="no room for more"):
        take(tmp_path, image(), "image")
    monkeypatch.setattr(uploads, "MOST_KEPT", 1 << 20)
    monkeypatch.setattr(uploads, "MOST_SIDE", 16)
    with pytest.raises(UserError, match="no side can be longer"):
        take(tmp_path, video(), "video")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../x.png", "", "a" * 32 + ".png", "/etc/passwd", "\0" * 32])
def test_names_that_are_no_uploads(tmp_path, name):
    with pytest.raises(UserError, match="no such image"):
        Uploads(tmp_path).path(name, "image")


def test_old_uploads_go(tmp_path, monkeypatch):
    take(tmp_path, image(), "image")
    monkeypatch.setattr(uploads, "KEPT_SECONDS", -1)
    Uploads(tmp_path).tidy()
    assert not any(tmp_path.iterdir())


def test_pieces_are_whole_videos():
    """A piece has as many frames as went in, at time 0, of the size that was asked for, and says its codec."""
    ramp = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3)
    frames = np.stack([np.roll(ramp, 3 * i, 1) for i in range(5)]).astype(np.uint8)
    piece = fragments.encode(frames, 8, scale=2)
    shown = list(fragments.decode(piece))
    assert len(shown) == 5 and shown[0].shape == (64, 64, 3)
    small = np.stack([picture[::2, ::2] for picture in shown]).astype(float)
    assert np.abs(small - frames).mean() < 12
    with av.open(io.BytesIO(piece)) as container:
        first = next(container.demux(video=0))
        assert first.pts == 0 and first.is_keyframe
    assert fragments.codec(piece).startswith("avc1.")
    for kind in (b"moov", b"moof", b"mvex"):
        assert kind in piece
    with pytest.raises(UserError, match="no H.264"):
        fragments.codec(b"nothing")
