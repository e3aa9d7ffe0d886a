"""Batches of whole stories as token ids with what each caption mentions, for the text encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from bvjax.story import split_times
from bvjax.tokenizer import Tokenizer
from data_pipelines.storyworld import world
from data_pipelines.storyworld.captions import mentions
from data_pipelines.storyworld.plan import make_story

# Keys of `mentions` and what each can hold; names and toponyms come first in a row of labels.
_VALUES = {
    "names": world.NAMES,
    "toponyms": world.TOPONYMS,
    "species": world.SPECIES,
    "colours": world.COLOURS,
    "accessories": tuple(a for a in world.ACCESSORIES if a != "none"),
    "places": world.PLACES,
    "weathers": world.WEATHERS,
}
LABELS = tuple((kind, value) for kind, values in _VALUES.items() for value in values)


def label_rows(captions: Sequence[str]) -> Float[np.ndarray, "n labels"]:
    """Multi-hot rows over LABELS: 1 where the caption mentions it."""
    mentions_of_captions = [mentions(caption) for caption in captions]
    return np.array([[v in m[k] for k, v in LABELS] for m in mentions_of_captions], np.float32)


@dataclasses.dataclass(frozen=True)
class TextBatches:
    """Random access to an endless sequence of batches: `batch(index, size)`.

    Batch `index` of `size` holds the stories with the seeds index*size .. index*size + size - 1, so
    the stream never repeats a story.  Can be pickled.
    """

    tokenizer: Tokenizer
    max_length: int
    split: str = "train"

    def batch(self, index: int, size: int) -> dict[str, np.ndarray]:
        """`size` stories of c captions, in order.

        Returns:
            ids int32 [size, c, max_length], mask bool of that shape, and multi-hot float32 rows
            labels [size, c, labels] (over LABELS), name_labels [size, c, names] and
            toponym_labels [size, c, toponyms].

        Raises:
            UserError: a caption has more than max_length tokens.
        """
        seeds = range(index * size, (index + 1) * size)
        stories = [[split_times(c)[0] for c in make_story(s, self.split).captions] for s in seeds]
        captions = [caption for story in stories for caption in story]
        ids, mask = self.tokenizer.encode(captions, self.max_length)
        labels = label_rows(captions)
        names, toponyms = len(world.NAMES), len(world.TOPONYMS)
        rows = {
            "ids": ids,
            "mask": mask,
            "labels": labels,
            "name_labels": labels[:, :names],
            "toponym_labels": labels[:, names : names + toponyms],
        }
        return {name: x.reshape(size, -1, x.shape[-1]) for name, x in rows.items()}
