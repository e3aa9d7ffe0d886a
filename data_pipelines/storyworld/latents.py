"""Stories as encoded examples (`data_pipelines.encoded`), with what ground truth knows: who is seen where.

`data_pipelines.storyworld.encode` makes folders of them; they are opened by `open_stories`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError
from bvjax.story import split_times
from data_pipelines.encoded.encoders import Encoders, encode_clip
from data_pipelines.encoded.folder import ExampleFolder, example_path, open_folder, read_example
from data_pipelines.storyworld.captions import standalone
from data_pipelines.storyworld.truth import truth
from data_pipelines.storyworld.world import Story, num_frames

PLACE_WEIGHT = 0.3  # a shared place counts less than a shared subject in the oracle's score
STANDALONE_STREAM = 1  # of the random numbers of `standalone_captions`
COMMAND = "python -m data_pipelines.storyworld.encode"
EXTRAS = ("relevance", "standalone")  # that every story has beside what every example has
SHOWN = ("seen", "place")  # who is shown where, for what is measured
SEEN = 0.25  # share of a chunk's frames in which a subject must be visible to count as shown


def chunk_truth(
    story: Story, grid: ChunkGrid
) -> tuple[Float[np.ndarray, "c s"], Int[np.ndarray, "c"]]:
    """Share of each chunk's frames in which each subject is visible, and the chunk's main place."""
    c = grid.config
    frames = range(0, num_frames(story, c.fps), 4)
    facts = truth(story, frames, height=c.height, width=c.width, fps=c.fps)
    seen, place = [], []
    for chunk in grid.chunk_ids:
        start, stop = grid.frame_range(chunk)
        rows = [i for i, frame in enumerate(frames) if start <= frame < stop]
        seen.append(facts.visible[rows].mean(axis=0))
        place.append(np.bincount(facts.place[rows]).argmax())
    return np.array(seen, np.float32), np.array(place, np.int32)


def relevance_matrix(
    seen: Float[np.ndarray, "c s"], place: Int[np.ndarray, "c"]
) -> Float[np.ndarray, "c c"]:
    """Score of source chunk j for target chunk i by ground truth: shared subjects, then a shared place."""
    shared = (seen >= SEEN).astype(np.float32) @ np.where(seen >= SEEN, seen, 0.0).T
    return shared + PLACE_WEIGHT * (place[:, None] == place[None, :])


def encode_story(encoders: Encoders, story: Story, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Everything the DiT's training needs of one story; latents and text as float16."""
    seen, place = chunk_truth(story, ChunkGrid.of(encoders.model, len(story.captions)))
    captions = [split_times(c)[0] for c in story.captions]
    return {
        **encode_clip(encoders, frames, captions, standalone_captions(encoders, story)),
        "relevance": relevance_matrix(seen, place),
        "seen": seen,
        "place": place,
    }


def read_story(path: Path, text_length: int | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of an encoded story, see `encoded.folder.read_example`; `seen` and `place` only where it has them.

    Raises:
        UserError: the file is damaged, or it is not an encoded story.
    """
    arrays = read_example(path, text_length, own=SHOWN)
    missing = [name for name in EXTRAS if name not in arrays]
    if missing:
        raise UserError(
            f"{path} is not an encoded story: it has no {', '.join(missing)}; {COMMAND} makes them"
        )
    return arrays


def standalone_captions(encoders: Encoders, story: Story) -> list[str]:
    """`captions.standalone` of every chunk; the light goes where a caption is too long for the tokenizer."""
    rng = np.random.Generator(np.random.Philox(key=[story.seed, STANDALONE_STREAM]))
    captions = []
    for index in range(story.n_chunks):
        text = standalone(rng, story, index)
        if encoders.tokenizer.count(text) > encoders.model.text.max_length:
            text = standalone(rng, story, index, light=False)
        captions.append(text)
    return captions


def story_file(root: str | Path, split: str, number: int) -> Path:
    return example_path(root, split, f"story_{number:05d}")


def open_stories(
    root: str | Path,
    split: str,
    extras: Iterable[str] = EXTRAS,
    examples: int | None = None,
) -> ExampleFolder:
    """The stories that a folder has of a split; arguments and errors are those of `encoded.folder.open_folder`."""
    return open_folder(root, split, extras, examples, command=COMMAND)
