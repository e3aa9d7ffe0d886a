"""The data sets of encoded examples that the DiT can be trained on, by name (`data.name`).

A row of `DATA_SETS` opens a split of one as a `data_pipelines.encoded.example.Source`. A data set whose examples are
made when they are asked for, or lie in other files, is another row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.train.config import check_range
from bvjax.train.task import DataIterator
from data_pipelines.encoded.batches import batches, check_fits
from data_pipelines.encoded.example import Source, known_extras
from data_pipelines.encoded.folder import how_to_make, open_folder
from data_pipelines.encoded.manifest import check_weights


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The section `data` of a config that trains the DiT."""

    weights: str  # folder with the VAE and the text encoder
    latents: str  # folder of encoded examples
    name: str = "storyworld"  # of `DATA_SETS`
    extras: tuple[str, ...] = ()  # what examples are to have, see `encoded.example.EXTRAS`
    split: str = "train"
    stories: int = 0  # how many examples of it; 0 = all that are encoded
    heldout_split: str = "heldout"
    heldout_stories: int = 8  # whose loss is measured every `train.sample_every` updates
    sample_stories: int = 2  # of them, drawn as strips
    sample_chunks: int = 5
    seed: int = 0

    def __post_init__(self):
        """Raises `UserError` for an unknown data set or extra, and for numbers out of bounds."""
        if self.name not in DATA_SETS:
            raise UserError(f"data.name is {self.name!r}; it can be {', '.join(DATA_SETS)}")
        known_extras(self.extras)
        check_range(self, "data", names=("stories", "seed"))
        check_range(
            self, "data", least=1, names=("heldout_stories", "sample_stories", "sample_chunks")
        )


# (the section, the model whose weights encode, split, how many: None = all) -> the examples.
Opener = Callable[[DataConfig, ModelConfig, str, int | None], Source]


def folder_of(command: str = "") -> Opener:
    """Opens folders of encoded examples that `command`, or whatever uses `encoded.folder`, has written."""

    def open_split(
        data: DataConfig, model: ModelConfig, split: str, examples: int | None
    ) -> Source:
        root = Path(data.latents)
        check_weights(root, data.weights, model, how_to_make(command, root, split))
        return open_folder(root, split, data.extras, examples, command)

    return open_split


DATA_SETS: dict[str, Opener] = {
    "storyworld": folder_of("python -m data_pipelines.storyworld.encode"),
    "lvbench": folder_of("python -m data_pipelines.lvbench.encode"),
    "folder": folder_of(),
}


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The parts of a data set that a task and its loop use.

    heldout: one batch of held-out examples. make: begins the endless batches of the training split.
    """

    heldout: dict[str, np.ndarray]
    null_text: np.ndarray
    make: Callable[[], DataIterator]


def open_data(data: DataConfig, model: ModelConfig, batch_size: int) -> TrainingData:
    """Opens the held-out split; the training split is opened by `make`.

    Args:
        data: the section.
        model: the model that is trained, with the VAE and the text encoder that encode.
        batch_size: examples of an update.

    Raises:
        UserError: the examples are missing, damaged, of another model or too few, or lack an extra.
    """

    def opened(split: str, examples: int | None) -> Source:
        source = DATA_SETS[data.name](data, model, split, examples)
        check_fits(source, model)
        return source

    heldout = opened(data.heldout_split, None)
    return TrainingData(
        heldout=next(batches(heldout, data.heldout_stories, 0)),
        null_text=heldout.null_text,
        make=lambda: batches(opened(data.split, data.stories or None), batch_size, data.seed),
    )
