"""Encodes stories once, for the DiT's training:

    python -m data_pipelines.storyworld.encode --weights=runs/mini --out=data/latents --stories=600

One .npz per story, written atomically, so the command can be killed and run again; manifest.json ties the
folder to the weights that made it.  Stories of two chunks (--chunks=2, in a folder of their own) cost a quarter
and show as many first subjects: what single latents are learnt from.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from bvjax import console
from bvjax.errors import UserError
from data_pipelines.storyworld.plan import SPLITS
from data_pipelines.storyworld.story_folder import encode
from data_pipelines.storyworld.world import LARGEST_SEED, MOST_CHUNKS, MOST_STORIES

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
        encode(
            console.path(_WEIGHTS.value),
            console.path(_OUT.value),
            numbers,
            _SPLIT.value,
            _CHUNKS.value,
            Path(_CACHE.value),
        )


if __name__ == "__main__":
    console.run_flags(main)
