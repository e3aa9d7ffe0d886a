"""First images and videos to go on from: how large they may be, of which kinds, and where they lie meanwhile.

What a file is, its first bytes say, not its name.  Playlists and other text, by which FFmpeg can be led to further
files, are none of the kinds.
"""

from __future__ import annotations

import pathlib
import re
import secrets
import time
from collections.abc import AsyncIterator

import PIL.Image

from bvjax.errors import UserError
from bvjax.media.video_frames import open_video
from bvjax.plain_text import size_text

LARGEST = {"image": 16 << 20, "video": 256 << 20}  # bytes
MOST_PIXELS = 50_000_000  # of an image
MOST_SIDE, MOST_SECONDS = 4096, 900  # of a video
MOST_KEPT = 2 << 30  # bytes of all uploads together
KEPT_SECONDS = 24 * 3600
_NAME = re.compile(r"[0-9a-f]{32}\.(png|jpg|webp|mp4|mkv|avi)")
_PICTURES = ("PNG", "JPEG", "WEBP")


def kind_of(head: bytes) -> tuple[str, str] | None:
    """("image" or "video", ending) that the first 16 bytes of a file say; None for any other kind."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image", "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image", "jpg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image", "webp"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "video", "avi"
    if head[4:8] == b"ftyp":
        return "video", "mp4"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "video", "mkv"
    return None


class Uploads:
    """A folder of files with names that nobody can guess."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    async def take(self, body: AsyncIterator[bytes], wanted: str) -> str:
        """Writes what comes and returns the name it has here.

        Args:
            wanted: image or video.

        Raises `UserError` for what is too large or not of that kind; nothing is left of it then.
        """
        if wanted not in LARGEST:
            raise UserError(f"kind must be {' or '.join(LARGEST)}")
        self._folder.mkdir(parents=True, exist_ok=True)
        self.tidy()
        name = secrets.token_hex(16)
        temporary = self._folder / f".{name}.tmp"
        try:
            size, head, room = 0, b"", MOST_KEPT - self._size()
            with open(temporary, "wb") as file:
                async for part in body:
                    size += len(part)
                    if size > min(LARGEST[wanted], room):
                        raise UserError(
                            f"the {wanted} is too large: it can have {size_text(LARGEST[wanted])}"
                            if size > LARGEST[wanted]
                            else "there is no room for more uploads; try again tomorrow"
                        )
                    if len(head) < 16:
                        head = (head + part)[:16]
                        if len(head) == 16 and (kind_of(head) or ("",))[0] != wanted:
                            break
                    file.write(part)
            kind = kind_of(head)
            if kind is None or kind[0] != wanted:
                kinds = "PNG, JPEG or WebP" if wanted == "image" else "MP4, MOV, WebM, MKV or AVI"
                raise UserError(f"this is no {wanted} of a kind that is taken: {kinds}")
            check(temporary, wanted)
            path = self._folder / f"{name}.{kind[1]}"
            temporary.rename(path)
            return path.name
        finally:
            temporary.unlink(missing_ok=True)

    def path(self, name: str, wanted: str) -> pathlib.Path:
        """The file of an upload; raises `UserError` for any other name."""
        path = self._folder / name if _NAME.fullmatch(name) else None
        if path is None or not path.is_file():
            raise UserError(f"there is no such {wanted} any more; upload it again")
        return path

    def tidy(self) -> None:
        """Takes away what was uploaded long ago, or not to its end."""
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            try:
                if path.stat().st_mtime < time.time() - KEPT_SECONDS:
                    path.unlink()
            except OSError:
                continue

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self._folder.iterdir() if path.is_file())


def check(path: pathlib.Path, wanted: str) -> None:
    """Raises `UserError` for an image or a video that nobody could make, or that is far too long."""
    if wanted == "image":
        try:
            with PIL.Image.open(path, formats=_PICTURES) as image:
                width, height = image.size
        except Exception as error:  # Pillow's readers raise whatever a damaged file led them to
            raise UserError(f"the image cannot be read ({type(error).__name__})") from None
        if width * height > MOST_PIXELS:
            raise UserError(f"the image is {width}x{height}; it can have {MOST_PIXELS} pixels")
        return
    with open_video(path, "that was uploaded") as (container, stream):
        if max(stream.width, stream.height) > MOST_SIDE:
            raise UserError(
                f"it is {stream.width}x{stream.height}; no side can be longer than {MOST_SIDE}"
            )
        if container.duration and container.duration / 1e6 > MOST_SECONDS:
            raise UserError(f"it is longer than {MOST_SECONDS} seconds; cut it first")
