"""Renders whole stories to disk once:

python -m data_pipelines.storyworld.cache --out data/storyworld --stories 300 --split train --workers 2
"""

from __future__ import annotations

import functools
import multiprocessing
from pathlib import Path

from absl import flags
from tqdm import tqdm

from bvjax import console
from bvjax.errors import UserError
from data_pipelines.storyworld.clips import story_path, write_story
from data_pipelines.storyworld.plan import SPLITS
from data_pipelines.storyworld.world import LARGEST_FPS, LARGEST_SIDE, LEAST_SIDE, MOST_STORIES

_OUT = flags.DEFINE_string("out", "data/storyworld", "Folder of rendered stories.")
_STORIES = flags.DEFINE_integer("stories", 300, "How many: seeds 0, 1, ...", 1, MOST_STORIES)
_SPLIT = flags.DEFINE_enum("split", "train", SPLITS, "Which split to draw them from.")
_HEIGHT = flags.DEFINE_integer("height", 64, "Pixels.", LEAST_SIDE, LARGEST_SIDE)
_WIDTH = flags.DEFINE_integer("width", 64, "Pixels.", LEAST_SIDE, LARGEST_SIDE)
_FPS = flags.DEFINE_integer("fps", 8, "Frames a second.", 1, LARGEST_FPS)
_WORKERS = flags.DEFINE_integer("workers", 2, "Processes.", lower_bound=1)


def fill(
    root: Path, split: str, height: int, width: int, fps: int, stories: int, workers: int
) -> int:
    """Renders the stories that are not there yet; returns how many those were."""
    path = functools.partial(story_path, root, split, height, width, fps)
    missing = [n for n in range(stories) if not path(n).exists()]
    root.mkdir(parents=True, exist_ok=True)  # before processes are started for it
    jobs = [(path(n), split, height, width, fps, n) for n in missing]
    with multiprocessing.get_context("spawn").Pool(min(workers, max(len(jobs), 1))) as pool:
        done = pool.imap_unordered(_write, jobs)
        for _ in tqdm(done, total=stories, initial=stories - len(jobs), unit="story", disable=None):
            pass
    return len(jobs)


def _write(job: tuple) -> None:
    write_story(*job)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}")
    sizes = (_HEIGHT.value, _WIDTH.value, _FPS.value)
    with console.going_on(console.AGAIN):
        count = fill(console.path(_OUT.value), _SPLIT.value, *sizes, _STORIES.value, _WORKERS.value)
    print(f"rendered {count} stories into {_OUT.value}")


if __name__ == "__main__":
    console.run_flags(main)
