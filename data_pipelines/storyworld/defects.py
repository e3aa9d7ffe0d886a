"""Videos of storyworld with a defect that begins in a known chunk, for testing metrics of drift:

    python -m data_pipelines.storyworld.defects --out runs/defects --defect all --chunk 6

Chunks are those of VDE: as many equal parts of the video as --chunks says. Up to the chunk all
videos of a seed show the same frames. Beside NAME.mp4 lies NAME.truth.npz (boxes of the subject and
the background's mask, as `bvjax.lvbench.video.load_truth` reads them), which tells where things are
in the frames as they are after the defect.

blur     gets softer and softer                  freeze  stands still
colour   colours fade and turn warm              swap    the subject is somebody else
jitter   the picture jumps by a few pixels       melt    the place wobbles and sags, the subject does not
none     no defect
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from tqdm import tqdm

from bvjax import console
from bvjax.errors import UserError
from bvjax.files import write_atomic, write_json
from bvjax.lvbench.video import TRUTH
from bvjax.media.video_io import VideoWriter
from data_pipelines.storyworld.plan import make_story
from data_pipelines.storyworld.renderer import render
from data_pipelines.storyworld.steady import steady_story, stranger
from data_pipelines.storyworld.truth import truth
from data_pipelines.storyworld.world import (
    CHUNK_SECONDS,
    MOST_CHUNKS,
    Story,
    check_size,
    num_frames,
)

DEFECTS = ("none", "blur", "colour", "jitter", "freeze", "swap", "melt")
TAKES = ("steady", "story")
# Sizes are shares of the frame's shorter side.
BLUR = (0.004, 0.02)  # standard deviation at the beginning and at the end, and
SOFT = 0.5  # pixels that it is at least: less changes nothing
FADE = (0.3, 0.8)  # share of colour that is lost
WARM = (0.06, 0.25)  # gain of red, loss of blue
JITTER = 0.02  # largest jump to each side
WOBBLE = (0.012, 0.03)  # of the melting place, to and fro
WOBBLES = 0.9  # a second
SAG = 0.05  # how far it has sunk at the end
GRAIN = 0.08  # how far apart places are that wobble by themselves


@dataclasses.dataclass(frozen=True)
class Take:
    """A video before the defect.

    first: frame that the defect begins with. subject: index of who the boxes follow.
    """

    story: Story
    frames: int
    first: int
    height: int
    width: int
    fps: int
    seed: int
    subject: int = 0

    @property
    def size(self) -> dict[str, int]:
        return dict(height=self.height, width=self.width, fps=self.fps)

    def progress(self, t: int) -> float:
        """Returns the strength of the defect: 0 at its first frame, 1 at the last."""
        return (t - self.first) / max(self.frames - 1 - self.first, 1)


@dataclasses.dataclass(frozen=True)
class Shot:
    """A frame, the subject's box (NaN where it is not in the frame), and what is background."""

    picture: UInt8[np.ndarray, "h w 3"]
    box: Float[np.ndarray, "4"]
    background: Bool[np.ndarray, "h w"]


def make_take(
    kind: str, seed: int, seconds: float, chunk: int, segments: int, size: int, fps: int
) -> Take:
    """kind: "steady" (`steady_story`), or "story", an ordinary minute of the split heldout.

    Raises `UserError` for sizes that cannot be drawn, and chunks that are not in the video.
    """
    check_size(size, size, fps)
    if not 0 < seconds <= MOST_CHUNKS * CHUNK_SECONDS:
        raise UserError(
            f"the video would last {seconds:g} s; it can last more than 0 and up to "
            f"{MOST_CHUNKS * CHUNK_SECONDS:g} s"
        )
    frames = int(seconds * fps)
    if frames < 2 * segments:
        raise UserError(f"{frames} frames cannot be cut into {segments} chunks of at least 2")
    if not 2 <= chunk <= segments:
        raise UserError(f"the chunk is {chunk}; a defect can begin in chunk 2 to {segments}")
    first = (chunk - 1) * (frames // segments)
    if kind == "steady":
        return Take(steady_story(seed, seconds), frames, first, size, size, fps, seed)
    if kind != "story":
        raise UserError(f"the take is {kind!r}; it can be {' or '.join(TAKES)}")
    story = make_story(seed, "heldout")
    if frames > num_frames(story, fps):
        raise UserError(f"a story has {num_frames(story, fps)} frames at {fps} fps, not {frames}")
    visibility = truth(story, range(0, frames, fps), height=size, width=size, fps=fps).visible
    visible_at_start = visibility[: max(1, len(visibility) // segments)].any(0)
    subject = int(np.argmax(visibility.sum(0) * visible_at_start))
    return Take(story, frames, first, size, size, fps, seed, subject)


def shots(take: Take, defect: str) -> Iterator[Shot]:
    """The frames of a take with a defect; raises `UserError` for an unknown one."""
    if defect not in DEFECTS:
        raise UserError(f"the defect is {defect!r}; it can be all or {', '.join(DEFECTS)}")
    clean_frame = functools.partial(_shot, take, take.story)
    defect_function = _DEFECT_FUNCTIONS.get(defect)
    for t in range(take.frames):
        yield (
            clean_frame(t)
            if t < take.first or defect_function is None
            else defect_function(take, t)
        )


def _shot(take: Take, story: Story, t: int) -> Shot:
    ground_truth = truth(story, [t], masks=True, **take.size)
    box = ground_truth.boxes[0, take.subject].astype(np.float32)
    x, y = np.clip(box[[0, 2]], 0, take.width), np.clip(box[[1, 3]], 0, take.height)
    if x[1] <= x[0] or y[1] <= y[0]:
        box = np.full(4, np.nan, np.float32)
    return Shot(render(story, [t], **take.size)[0], box, ground_truth.background[0])


def _freeze(take: Take, t: int) -> Shot:
    return _shot(take, take.story, take.first)


def _blur(take: Take, t: int) -> Shot:
    shot = _shot(take, take.story, t)
    sigma = max(_interpolate(BLUR, take.progress(t)) * min(take.height, take.width), SOFT)
    picture = cv2.GaussianBlur(shot.picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return dataclasses.replace(shot, picture=picture)


def _colour(take: Take, t: int) -> Shot:
    shot, progress = _shot(take, take.story, t), take.progress(t)
    picture = shot.picture.astype(np.float32)
    grey = picture @ np.float32([0.299, 0.587, 0.114])
    picture += _interpolate(FADE, progress) * (grey[..., None] - picture)
    warm = _interpolate(WARM, progress)
    picture *= np.float32([1 + warm, 1.0, 1 - warm])
    return dataclasses.replace(shot, picture=_to_uint8(picture))


def _jitter(take: Take, t: int) -> Shot:
    """Whole pixels, so that nothing gets softer; what comes into view is mirrored."""
    reach = max(1, round(JITTER * min(take.height, take.width)))
    right, down = np.random.default_rng([9, take.seed, t]).integers(-reach, reach + 1, 2)
    shot = _shot(take, take.story, t)
    rows = _mirror_indices(np.arange(take.height) - down, take.height)
    columns = _mirror_indices(np.arange(take.width) - right, take.width)
    return Shot(
        shot.picture[rows][:, columns],
        shot.box + np.float32([right, down, right, down]),
        shot.background[rows][:, columns],
    )


def _swap(take: Take, t: int) -> Shot:
    cast = list(take.story.subjects)
    cast[take.subject] = stranger(cast[take.subject], take.seed)
    return _shot(take, dataclasses.replace(take.story, subjects=tuple(cast)), t)


def _melt(take: Take, t: int) -> Shot:
    shot = _shot(take, take.story, t)
    chunks = tuple(dataclasses.replace(chunk, actions=()) for chunk in take.story.chunks)
    place = render(dataclasses.replace(take.story, chunks=chunks), [t], **take.size)[0]
    side, progress = min(take.height, take.width), take.progress(t)
    phase, slope = _phases(take.height, take.width, take.seed)
    phase_of_time = 2 * np.pi * WOBBLES * (t - take.first + 1) / take.fps
    reach = _interpolate(WOBBLE, progress) * side
    rows, columns = np.mgrid[: take.height, : take.width].astype(np.float32)
    columns += np.float32(reach) * np.sin(phase_of_time + phase)
    rows += np.float32(reach) * np.sin(phase_of_time + slope) - np.float32(SAG * side * progress)
    warped = cv2.remap(place, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    subject_weight = cv2.GaussianBlur((~shot.background).astype(np.float32), (3, 3), 0)[..., None]
    return dataclasses.replace(
        shot, picture=_to_uint8(warped + subject_weight * (shot.picture - 1.0 * warped))
    )


_DEFECT_FUNCTIONS = {
    "blur": _blur,
    "colour": _colour,
    "jitter": _jitter,
    "freeze": _freeze,
    "swap": _swap,
    "melt": _melt,
}


@functools.lru_cache(maxsize=4)
def _phases(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth fields of angles."""
    rng = np.random.default_rng([10, seed])
    angle_fields = []
    for _ in range(2):
        noise = rng.normal(size=(height, width)).astype(np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), GRAIN * min(height, width))
        angle_fields.append(np.float32(np.pi) * noise / noise.std())
    return angle_fields[0], angle_fields[1]


def _interpolate(ends: tuple[float, float], progress: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * progress


def _mirror_indices(index: np.ndarray, size: int) -> np.ndarray:
    return size - 1 - np.abs(size - 1 - np.abs(index))


def _to_uint8(picture: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    return (np.clip(picture, 0, 255) + 0.5).astype(np.uint8)


def write_video(take: Take, defect: str, path: Path) -> None:
    """NAME.mp4 and NAME.truth.npz; raises `UserError` when they cannot be written."""
    boxes, masks = [], []
    with VideoWriter(path, take.fps) as writer:
        for shot in tqdm(shots(take, defect), total=take.frames, desc=defect, unit="frame"):
            writer.write(shot.picture[None])
            boxes.append(shot.box)
            masks.append(np.packbits(shot.background, axis=-1))
    content = io.BytesIO()
    np.savez_compressed(content, boxes=np.stack(boxes), background=np.stack(masks))
    write_atomic(path.with_name(path.stem + TRUTH), content.getvalue())


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and write; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.storyworld.defects",
        description="Videos of storyworld with a defect that begins in a known chunk.",
    )
    add = parser.add_argument
    add("--out", type=console.path, default=Path("runs/defects"), metavar="DIR")
    add("--defect", default="all", help=f"all, or some of {','.join(DEFECTS)}")
    add("--chunk", type=int, default=6, help="that the defect begins in, from 2 on (default 6)")
    add("--chunks", type=int, default=10, metavar="N", help="chunks of the video (default 10)")
    add("--take", default="steady", help="steady: a dance at one place; story: an ordinary minute")
    add("--seed", type=int, default=0, help="which take (default 0)")
    add("--size", type=int, default=128, help="pixels a side (default 128)")
    add("--fps", type=int, default=8)
    add("--seconds", type=float, default=20.0)
    args = parser.parse_args(argv)
    names = DEFECTS if args.defect == "all" else tuple(args.defect.split(","))

    def command() -> None:
        take = make_take(
            args.take, args.seed, args.seconds, args.chunk, args.chunks, args.size, args.fps
        )
        for name in names:
            if name not in DEFECTS:
                next(shots(take, name))
        args.out.mkdir(parents=True, exist_ok=True)
        for name in names:
            write_video(take, name, args.out / f"{name}.mp4")
        videos = {
            f"{name}.mp4": {"defect": name, "chunk": args.chunk, "frame": take.first}
            for name in names
        }
        for name in set(names) & {"none"}:
            videos[f"{name}.mp4"] |= {"chunk": None, "frame": None}
        settings = {
            key: getattr(args, key) for key in ("take", "seed", "size", "fps", "seconds", "chunks")
        }
        write_json(args.out / "defects.json", {**settings, "videos": videos})
        print(args.out / "defects.json")

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
