"""A folder of encoded stories, filled: `data_pipelines.storyworld.encode` is the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipelines.encoded.encoders import Encoders, load_encoders
from data_pipelines.encoded.folder import write_example, write_null_text
from data_pipelines.encoded.manifest import claim
from data_pipelines.storyworld.clips import open_story, render_frames, story_path
from data_pipelines.storyworld.latents import SHOWN, encode_story, story_file
from data_pipelines.storyworld.plan import make_story
from data_pipelines.storyworld.world import Story, num_frames


def encode(
    weights: Path,
    root: Path,
    numbers: range,
    split: str = "train",
    chunks: int = 15,
    cache: Path | None = None,
) -> None:
    """Encodes the stories of a split that are not there yet.

    Args:
        cache: folder of rendered stories; those that it lacks are rendered now.

    Raises:
        UserError: `root` holds examples encoded by other weights.
    """
    encoders = load_encoders(weights)
    claim(root, weights, encoders.model)
    write_null_text(root, encoders.text([""])[0][0])
    for number in tqdm(numbers, unit="story", disable=None):
        path = story_file(root, split, number)
        if not path.exists():
            story = make_story(number, split, chunks)
            arrays = encode_story(encoders, story, frames_of(encoders, story, cache))
            write_example(path, arrays, own=SHOWN)


def frames_of(encoders: Encoders, story: Story, cache: Path | None) -> np.ndarray:
    """All frames of a story, from the cache of rendered stories or rendered now."""
    chunk = encoders.model.chunk
    size = (chunk.height, chunk.width, chunk.fps)
    cached = None if cache is None else story_path(cache, story.split, *size, story.seed)
    if cached is not None and cached.exists():
        frames = np.asarray(open_story(cached, *size[:2]))
        if len(frames) == num_frames(story, chunk.fps):  # another length is another story
            return frames
    return render_frames(story, range(num_frames(story, chunk.fps)), *size)
