"""Encodes stories once, for the DiT's training:

    python -m data_pipelines.storyworld.encode --weights=runs/mini --out=data/latents --stories=600

One .npz per story, written atomically, so the command can be killed and run again; manifest.json ties the
folder to the weights that made it.  Stories of two chunks (--chunks=2, in a folder of their own) cost a quarter
and show as many first subjects: what single latents are learnt from.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from bvjax import console
from bvjax.errors import UserError
from data_pipelines.encoded.encoders import Encoders, load_encoders
from data_pipelines.encoded.folder import write_example, write_null_text
from data_pipelines.encoded.manifest import claim
from data_pipelines.storyworld.clips import open_story, render_frames, story_path
from data_pipelines.storyworld.latents import SHOWN, encode_story, story_file
from data_pipelines.storyworld.plan import SPLITS, make_story
from data_pipelines.storyworld.world import (
    LARGEST_SEED,
    MOST_CHUNKS,
    MOST_STORIES,
    Story,
    num_frames,
)

_WEIGHTS = flags.DEFINE_string("weights", "runs/mini", "Weights folder with vae and text.")
_OUT = flags.DEFINE_string("out", "data/latents", "Folder of encoded stories.")
_CACHE = flags.DEFINE_string("cache", "data/storyworld", "Folder of rendered stories, if any.")
_STORIES = flags.DEFINE_integer(
    "stories", 600, "How many: seeds FIRST, FIRST+1, ...", 1, MOST_STORIES
)
_FIRST = flags.DEFINE_integer("first", 0, "The first seed.", 0, LARGEST_SEED - MOST_STORIES)
_CHUNKS = flags.DEFINE_integer("chunks", 15, "Chunks of a story.", 1, MOST_CHUNKS)
_SPLIT = flags.DEFINE_enum("split", "train", SPLITS, "Which split to draw them from.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}")
    numbers = range(_FIRST.value, _FIRST.value + _STORIES.value)
    with console.going_on(console.AGAIN):
        encode(console.path(_WEIGHTS.value), console.path(_OUT.value), numbers)


def encode(weights: Path, root: Path, numbers: range) -> None:
    """Encodes the stories that are not there yet.

    Raises:
        UserError: `root` holds examples encoded by other weights.
    """
    encoders = load_encoders(weights)
    claim(root, weights, encoders.model)
    write_null_text(root, encoders.text([""])[0][0])
    for number in tqdm(numbers, unit="story", disable=None):
        path = story_file(root, _SPLIT.value, number)
        if not path.exists():
            story = make_story(number, _SPLIT.value, _CHUNKS.value)
            arrays = encode_story(encoders, story, frames_of(encoders, story))
            write_example(path, arrays, own=SHOWN)


def frames_of(encoders: Encoders, story: Story) -> np.ndarray:
    """All frames of a story, from the cache of rendered stories or rendered now."""
    chunk = encoders.model.chunk
    size = (chunk.height, chunk.width, chunk.fps)
    cached = story_path(_CACHE.value, story.split, *size, story.seed)
    if cached.exists():
        frames = np.asarray(open_story(cached, *size[:2]))
        if len(frames) == num_frames(story, chunk.fps):  # another length is another story
            return frames
    return render_frames(story, range(num_frames(story, chunk.fps)), *size)


if __name__ == "__main__":
    console.run_flags(main)
