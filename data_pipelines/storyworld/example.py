"""One story as a row of the tfds dataset: its features, and the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.storyworld.plan import make_story
from data_pipelines.storyworld.renderer import render
from data_pipelines.storyworld.truth import truth
from data_pipelines.storyworld.world import ACCESSORIES, CHUNK_SECONDS, COLOURS, PLACES, SPECIES

CHUNKS = 15
MAX_SUBJECTS = 3  # the rows of a story with fewer are padded: False, 0 and -1


def story_frames(fps: int) -> int:
    """Frames of a story of `CHUNKS` chunks; frame 0 belongs to none."""
    return 1 + CHUNKS * int(CHUNK_SECONDS * fps)


def story_features(height: int, width: int, fps: int) -> tfds.features.FeaturesDict:
    """video f h w 3; what `Truth` holds, per frame; per subject an index into SPECIES, ..."""
    frames, text = story_frames(fps), tfds.features.Text()
    per_subject = _tensor((MAX_SUBJECTS,), np.int32)
    return tfds.features.FeaturesDict(
        {
            "video": _tensor((frames, height, width, 3), np.uint8),
            "captions": tfds.features.Sequence(text, length=CHUNKS),
            "seed": np.int64,
            "names": tfds.features.Sequence(text),
            "species": per_subject,
            "colour": per_subject,
            "accessory": per_subject,
            "visible": _tensor((frames, MAX_SUBJECTS), np.bool_),
            "boxes": _tensor((frames, MAX_SUBJECTS, 4), np.float32),
            "place": _tensor((frames,), np.int32),
            "places_visible": _tensor((frames, len(PLACES)), np.bool_),
            "camera": _tensor((frames, 3), np.float32),
            "weather": _tensor((frames,), np.int32),
        }
    )


def story_example(seed: int, split: str, height: int, width: int, fps: int) -> dict[str, Any]:
    """The values of `story_features` for the story `make_story(seed, split)`."""
    story = make_story(seed, split, n_chunks=CHUNKS)
    size = dict(height=height, width=width, fps=fps)
    ground_truth, cast = truth(story, **size), story.subjects
    padding = MAX_SUBJECTS - len(cast)
    return {
        "video": render(story, **size),
        "captions": list(story.captions),
        "seed": seed,
        "names": [s.name for s in cast],
        "species": _padded_ids([SPECIES.index(s.species) for s in cast]),
        "colour": _padded_ids([COLOURS.index(s.colour) for s in cast]),
        "accessory": _padded_ids([ACCESSORIES.index(s.accessory) for s in cast]),
        "visible": np.pad(ground_truth.visible, ((0, 0), (0, padding))),
        "boxes": np.pad(ground_truth.boxes, ((0, 0), (0, padding), (0, 0))),
        "place": ground_truth.place,
        "places_visible": ground_truth.places_visible,
        "camera": ground_truth.camera,
        "weather": ground_truth.weather,
    }


def _tensor(shape: tuple[int, ...], dtype) -> tfds.features.Tensor:
    # As lists of numbers (the default encoding) they would be many times slower to read.
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")


def _padded_ids(values: list[int]) -> np.ndarray:
    return np.array(values + [-1] * (MAX_SUBJECTS - len(values)), np.int32)
