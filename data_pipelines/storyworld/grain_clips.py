"""Random short clips out of the tfds dataset, by a Grain pipeline that knows where it stands."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain.python as grain
import numpy as np
from jaxtyping import UInt8

from bvjax.errors import UserError
from data_pipelines.row_batches import row_batches
from data_pipelines.storyworld.builder import storyworld_source
from data_pipelines.storyworld.clips import Video, random_square
from data_pipelines.storyworld.example import story_frames


class GrainClips:
    """Clips from the first `stories` stories of a split; in batches of the form that `clips.Clips` gives.

    Each epoch takes one clip of every story, in an order of its own.
    """

    def __init__(
        self,
        data_dir: str | Path,
        split: str,
        stories: int,
        frames: int,  # of a clip
        height: int,
        width: int,
        fps: int,
        seed: int = 0,
        crop: int = 0,  # pixels of a square cut out at a uniform place; 0 = whole frames
    ):
        """Raises `UserError` when the dataset is missing, of another size or too small."""
        source = storyworld_source(data_dir, split)
        shape, expected = (
            source.dataset_info.features["video"].shape,
            (story_frames(fps), height, width, 3),
        )
        if shape != expected:
            raise UserError(
                f"the videos in {data_dir} are {_size(shape)}, {_size(expected)} are wanted"
            )
        if len(source) < stories:
            raise UserError(f"{data_dir} holds {len(source)} {split} stories, {stories} are wanted")
        if frames > shape[0] or crop > min(height, width):
            clip_shape = (frames, crop or height, crop or width)
            raise UserError(f"{_size(clip_shape)} cannot be cut out of {_size(shape)}")
        self.stories = stories
        self._dataset = (
            grain.MapDataset.source(source)[:stories]
            .shuffle(seed=seed)
            .random_map(functools.partial(random_clip, frames=frames, crop=crop), seed=seed)
            .repeat()
        )

    def batch(self, index: int, size: int) -> dict[str, UInt8[np.ndarray, "b f h w 3"]]:
        """Batch `index` of the endless sequence, without walking there."""
        return self._dataset.batch(size)[index]

    def batches(self, size: int, rows: Sequence[int] | None = None) -> grain.DatasetIterator:
        """The endless sequence itself, or `rows` of its batches; its get_state/set_state resume it exactly.

        Two batches are read ahead in one background thread and are not part of the state.
        """
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        return iter(row_batches(self._dataset, size, rows).to_iter_dataset(options))


def random_clip(
    story: Mapping[str, Any], rng: np.random.Generator, *, frames: int, crop: int
) -> dict[str, Video]:
    """`frames` neighbouring frames, and a square of `crop` pixels of them, at uniform places."""
    video = story["video"]
    start = rng.integers(len(video) - frames + 1)
    return {"frames": random_square(video[start : start + frames], crop, rng)}


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} frames of {shape[1]}x{shape[2]}"
