"""Videos to be measured: their properties, and their frames block by block."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import UInt8

from bvjax.errors import UserError
from bvjax.files import sha256_of
from bvjax.media.video_frames import Frame, location, timed_frames
from bvjax.plain_text import shown
from bvjax.story import load_story

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".m2ts",
    ".wmv", ".flv", ".3gp", ".ogv",
)  # fmt: skip
RUN_VIDEO, STORY = "video.mp4", "story.json"  # of a folder that `python -m bvjax generate` made
TRUTH = ".truth.npz"


@dataclasses.dataclass(frozen=True)
class Video:
    """A video file and the properties found by counting its frames.

    truth: NAME.truth.npz beside NAME.mp4, if there is one (see `load_truth`).
    prompt: the captions of the run that made it, one after the other; None for other videos.
    """

    path: pathlib.Path
    name: str  # path below the evaluated folder, with forward slashes
    sha256: str  # of the file
    frames: int  # that can be decoded
    fps: float  # 0 where the file does not say
    height: int
    width: int
    truth: pathlib.Path | None = None
    prompt: str | None = None


@dataclasses.dataclass
class Block:
    """Neighbouring frames of a video, in order, and the frame before them.

    A value that several metrics need of a block is computed once: `block.cached("flow", build)`; one that
    they need of a whole video: `block.cached_for_video("tracker", build)`.
    """

    first: int  # index of frames[0] in the video
    frames: UInt8[np.ndarray, "f h w 3"]
    previous: Frame | None  # frame first - 1; None at the start
    _cache: dict[str, Any] = dataclasses.field(default_factory=dict)
    _video_cache: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # one for all blocks of a video

    def cached(self, key: str, build: Callable[[], Any]) -> Any:
        """Returns `build()`, computed once per `key` for this block."""
        if key not in self._cache:
            self._cache[key] = build()
        return self._cache[key]

    def cached_for_video(self, key: str, build: Callable[[], Any]) -> Any:
        """Returns `build()`, computed once per `key` for all blocks of this video."""
        if key not in self._video_cache:
            self._video_cache[key] = build()
        return self._video_cache[key]


def find_videos(folder: pathlib.Path) -> list[pathlib.Path]:
    """All videos below a folder, or the one file given, sorted by name.

    A run folder has one, what was generated: not what `redo` archived, nor the clip that was given.

    Raises `UserError` when there are none.
    """
    folder = pathlib.Path(folder)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        location(folder)  # refuses an address in its own words
        raise UserError(f"there is no folder {folder}")
    videos: list[pathlib.Path] = []
    for directory, folders, files in os.walk(folder):
        directory_path = pathlib.Path(directory)
        if is_run(directory_path):
            folders.clear()
            files = [RUN_VIDEO] if RUN_VIDEO in files else []
        candidates = (directory_path / f for f in files if not f.startswith("."))
        videos += [p for p in candidates if p.suffix.lower() in SUFFIXES and p.is_file()]
    if not videos and is_run(folder):
        raise UserError(f"the run {folder} has no {RUN_VIDEO}; 'resume' or 'decode' makes it")
    if not videos:
        raise UserError(f"{folder} holds no video ({', '.join(SUFFIXES)})")
    videos.sort()
    return videos


def is_run(folder: pathlib.Path) -> bool:
    """Returns whether `python -m bvjax generate` made a folder."""
    return all((folder / name).is_file() for name in ("config.json", STORY))


def unfinished_runs(folder: pathlib.Path) -> list[tuple[str, str]]:
    """(name, what is wrong) of each run below a folder whose video is missing or only a part."""
    problems = []
    for directory, folders, files in os.walk(folder):
        directory_path = pathlib.Path(directory)
        if is_run(directory_path):
            folders.clear()
            if RUN_VIDEO not in files:
                problems.append((name_of(directory_path, folder), f"the run has no {RUN_VIDEO}"))
            elif "report.json" not in files:  # it is written last
                problems.append(
                    (
                        name_of(directory_path, folder),
                        "the run is not finished: its video is a part",
                    )
                )
    return sorted(problems)


def prompt_of(path: pathlib.Path) -> str | None:
    """Returns the prompt of a run's video: its captions one after the other; None for other videos.

    Raises `UserError` for a damaged story.
    """
    path = pathlib.Path(path)
    if path.name != RUN_VIDEO or not is_run(path.parent):
        return None
    return " ".join(load_story(path.parent / STORY).captions)


def probe(path: pathlib.Path, folder: pathlib.Path) -> Video:
    """Decodes a video once to count its frames; raises `UserError` for a damaged one.

    A count in a file's header can be wrong, and segments are cut by the number of frames.
    """
    path, count, end, size = pathlib.Path(path), 0, Fraction(0), None
    for timed in timed_frames(path):
        frame_size = timed.size
        if frame_size != (size := size or frame_size):
            raise UserError(
                f"the video {path} changes from {size[1]}x{size[0]} to {frame_size[1]}x{frame_size[0]} at frame "
                f"{count}; all frames must have one size"
            )
        count, end = count + 1, timed.end
    if size is None:
        raise UserError(f"the video {path} has no frames")
    return Video(
        path=path,
        name=name_of(path, folder),
        sha256=sha256_of(path),
        frames=count,
        fps=float(count / end) if end else 0.0,
        height=size[0],
        width=size[1],
        truth=truth_beside(path),
        prompt=prompt_of(path),
    )


def name_of(path: pathlib.Path, folder: pathlib.Path) -> str:
    """Returns a video's name below the evaluated folder (which may be the video itself).

    What is not UTF-8 in it is escaped.
    """
    name = path.name if path == folder else path.relative_to(folder).as_posix()
    return shown(name)


def without_suffix(name: str) -> str:
    """A name without a video's suffix."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def truth_beside(path: pathlib.Path) -> pathlib.Path | None:
    """The file of ground truth beside a video, if there is one."""
    truth = path.with_name(path.stem + TRUTH)
    return truth if truth.is_file() else None


def blocks(video: Video, size: int = 16) -> Iterator[Block]:
    """The frames of a video, `size` at a time; raises `UserError`."""
    frames_of_block: list[Frame] = []
    video_cache: dict[str, Any] = {}
    first, previous = 0, None
    for timed in timed_frames(video.path):
        frames_of_block.append(timed.picture())
        if len(frames_of_block) == size:
            yield Block(first, np.stack(frames_of_block), previous, _video_cache=video_cache)
            first, previous, frames_of_block = first + size, frames_of_block[-1], []
    if frames_of_block:
        yield Block(first, np.stack(frames_of_block), previous, _video_cache=video_cache)


def load_truth(
    video: Video, names: Sequence[str] = ("boxes", "background"), packed: bool = False
) -> dict[str, np.ndarray]:
    """Ground truth given beside a video, what there is of `names`.

    NAME.truth.npz may hold `boxes` [T, 4] float (x0, y0, x1, y1 in pixels of the main subject; NaN
    where it is not in the frame) and `background` [T, h, ceil(w / 8)] uint8 (np.packbits along
    the width; 1 where no subject is), which comes as [T, h, w] bool, or as it is where `packed`: a
    minute at 480p is 0.6 GB of bools.  Raises `UserError` for other sizes.
    """
    if video.truth is None:
        return {}
    expected_shapes = {
        "boxes": (video.frames, 4),
        "background": (video.frames, video.height, -(-video.width // 8)),
    }
    try:
        with np.load(video.truth, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names if name in file.files}
    except Exception as error:  # zipfile and NumPy raise half a dozen kinds for damaged files
        raise UserError(f"{video.truth} is damaged: {error or type(error).__name__}") from None
    kinds = {"boxes": "fiu", "background": "u"}
    for name, array in arrays.items():
        if array.dtype.kind not in kinds[name]:
            raise UserError(f"{video.truth}: {name} is of the type {array.dtype}")
        if array.shape != expected_shapes[name]:
            raise UserError(
                f"{video.truth}: {name} is {list(array.shape)}; {video.name} needs "
                f"{list(expected_shapes[name])}"
            )
    if "background" in arrays and not packed:
        bits = np.unpackbits(arrays["background"], axis=-1, count=video.width)
        arrays["background"] = bits.astype(bool)
    return arrays
