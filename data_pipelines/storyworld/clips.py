"""Random short clips of storyworld, from rendered stories on disk or rendered on the spot."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from bvjax.array_files import first_line
from bvjax.errors import UserError
from bvjax.files import npy_bytes, write_atomic
from data_pipelines.storyworld.plan import make_story
from data_pipelines.storyworld.renderer import render
from data_pipelines.storyworld.world import Story, num_frames

Video = UInt8[np.ndarray, "frames h w 3"]


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips from the stories 0 .. `stories`-1 of a split; story i has the seed i.

    Whether a story is in the cache changes the speed only: batch `i` is the same either way, so the
    cache may still be growing.
    """

    split: str
    stories: int
    frames: int  # of a clip
    height: int
    width: int
    fps: int
    cache: Path | None = None
    seed: int = 0
    crop: int = 0  # pixels of a square cut out at a uniform place; 0 = whole frames

    def __post_init__(self):
        if not 0 <= self.crop <= min(self.height, self.width):
            raise UserError(
                f"data.crop is {self.crop}; it can be 0 (whole frames) to "
                f"{min(self.height, self.width)} pixels"
            )

        story_frames = num_frames(_story(0, self.split), self.fps)
        if not 1 <= self.frames <= story_frames:
            raise UserError(
                f"data.frames is {self.frames}; a story has {story_frames} at {self.fps} fps"
            )

    def batch(self, index: int, size: int) -> dict[str, UInt8[np.ndarray, "b f h w 3"]]:
        """`size` clips that are a function of (seed, index): story and first frame are uniform."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        clips = [self._clip(rng) for _ in range(size)]
        return {"frames": np.stack(clips)}

    def _clip(self, rng: np.random.Generator) -> Video:
        story_seed, position = rng.integers(self.stories), rng.random()
        story = _story(int(story_seed), self.split)
        start = int(position * (num_frames(story, self.fps) - self.frames + 1))
        frame_indices = range(start, start + self.frames)
        cached_path = None if self.cache is None else self.path(int(story_seed))
        if cached_path is not None and cached_path.exists():
            clip = np.array(
                open_story(cached_path, self.height, self.width)[start : start + self.frames]
            )
            if len(clip) != self.frames:
                raise UserError(f"{cached_path} is too short; delete it and render it again")
        else:
            clip = render_frames(story, frame_indices, self.height, self.width, self.fps)
        return random_square(clip, self.crop, rng)

    def path(self, number: int) -> Path:
        """Returns the path of a rendered story in the cache."""
        return story_path(self.cache, self.split, self.height, self.width, self.fps, number)

    def check_cache(self) -> int:
        """Counts the stories in the cache.

        Raises:
            UserError: a cached story differs from what this renderer draws.
        """
        if self.cache is None:
            return 0
        numbers = [n for n in range(self.stories) if self.path(n).exists()]
        for number in numbers[:1]:
            video = open_story(self.path(number), self.height, self.width)
            story = _story(number, self.split)
            middle = min(len(video), num_frames(story, self.fps)) // 2
            rendered = render_frames(story, [middle], self.height, self.width, self.fps)
            if not np.array_equal(video[middle], rendered[0]):
                raise UserError(
                    f"{self.path(number)} differs from what the renderer draws now; "
                    f"delete {self.path(number).parent} and render it again"
                )
        return len(numbers)


@dataclasses.dataclass(frozen=True)
class FreshClips:
    """Clips of stories that are rendered once, used for a while and never seen again.

    Batch i renders `renew` new clips, of the stories i * `renew` and on, and draws from the newest `window`
    clips. So many stories are in a batch at the price of few renderings, and nothing has to lie on disk.
    """

    clips: Clips  # how large, and where stories begin; its `stories` is not used
    renew: int = 1
    window: int = 64
    _clips_by_story: dict[int, Video] = dataclasses.field(default_factory=dict, repr=False)

    def batch(self, index: int, size: int) -> dict[str, UInt8[np.ndarray, "b f h w 3"]]:
        """`size` clips of different stories, a function of (seed, index) alone; made by one thread."""
        newest = (index + 1) * self.renew + size
        oldest = max(0, newest - self.window)
        for number in [n for n in self._clips_by_story if n < oldest]:
            del self._clips_by_story[number]
        rng = np.random.Generator(np.random.Philox(key=[self.clips.seed, index]))
        story_numbers = oldest + rng.choice(newest - oldest, size, replace=False)
        crop_clip = functools.partial(random_square, crop=self.clips.crop, rng=rng)
        return {
            "frames": np.stack(
                [crop_clip(self._clip_of_story(int(number))) for number in story_numbers]
            )
        }

    def _clip_of_story(self, number: int) -> Video:
        if number not in self._clips_by_story:
            clips_config, story = self.clips, make_story(number, self.clips.split)
            position = np.random.Generator(
                np.random.Philox(key=[clips_config.seed, number])
            ).random()
            start = int(position * (num_frames(story, clips_config.fps) - clips_config.frames + 1))
            frame_indices = range(start, start + clips_config.frames)
            self._clips_by_story[number] = render_frames(
                story, frame_indices, clips_config.height, clips_config.width, clips_config.fps
            )
        return self._clips_by_story[number]


def random_square(clip: Video, crop: int, rng: np.random.Generator) -> Video:
    """A square of `crop` pixels of all frames, at a uniform place; 0 leaves the frames whole."""
    if not crop:
        return clip
    top, left = (rng.integers(size - crop + 1) for size in clip.shape[1:3])
    return clip[:, top : top + crop, left : left + crop]


def story_path(root: Path, split: str, height: int, width: int, fps: int, number: int) -> Path:
    """ROOT/train-64x64-8fps/story_00007.npy."""
    return Path(root) / f"{split}-{height}x{width}-{fps}fps" / f"story_{number:05d}.npy"


def open_story(path: Path, height: int, width: int) -> Video:
    """A cached story, mapped from disk; raises `UserError` if the file is damaged or holds something else."""
    again = "delete it and render it again"
    try:
        video = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises half a dozen kinds for damaged headers
        raise UserError(f"{path} is damaged: {first_line(error)}; {again}") from None
    whole = isinstance(video, np.ndarray) and video.dtype == np.uint8 and video.ndim == 4
    if not whole or not len(video) or video.shape[1:] != (height, width, 3):
        raise UserError(f"{path} is not a story of {height}x{width} pixels; {again}")
    return video


def write_story(path: Path, split: str, height: int, width: int, fps: int, number: int) -> None:
    """Renders all frames of a story into one .npy file, atomically."""
    story = _story(number, split)
    frames = render_frames(story, range(num_frames(story, fps)), height, width, fps)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, npy_bytes(frames))


def render_frames(story: Story, frames, height: int, width: int, fps: int) -> Video:
    """Renders the pixels of frames, without ground truth."""
    return render(story, frames, height=height, width=width, fps=fps)


@functools.lru_cache(maxsize=4096)
def _story(number: int, split: str) -> Story:
    return make_story(number, split)
