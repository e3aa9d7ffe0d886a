"""The data sets of encoded examples that the DiT can be trained on, by name (`data.name`).

A row of `DATA_SETS` opens a split of one as a `data_pipelines.encoded.example.Source`, a row of `KEPT` those of one
that is made while training goes on (`data_pipelines.encoded.kept`). Pictures may come with either, or alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.train.config import check_range
from bvjax.train.task import EXAMPLE, DataIterator
from data_pipelines.counter_source import Merged
from data_pipelines.encoded.example import Source, known_extras
from data_pipelines.encoded.folder import how_to_make, open_folder, read_null_text
from data_pipelines.encoded.manifest import check_weights
from data_pipelines.encoded.replay import LOADERS, Opening, Replay
from data_pipelines.row_batches import share
from data_pipelines.storyworld.cut_clips import open_cuts
from data_pipelines.storyworld.pictures import open_pictures
from data_pipelines.storyworld.returns import open_returns


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The section `data` of a config that trains the DiT."""

    weights: str  # folder with the VAE and the text encoder
    latents: str = ""  # folder of encoded examples; "" trains on pictures alone
    pictures: str = ""  # folder that keeps encoded pictures (`data_pipelines.storyworld.pictures`)
    # Of what is made while training goes on (pictures, and the data sets of `KEPT`):
    first: int = 256  # examples that are there before the first step
    fresh: int = 1  # that every step adds
    most: int = 0  # in all; 0 = without end
    loader: str = "pool"  # of `replay.LOADERS`: what makes them
    workers: int = 1  # its processes; 0 = the process that trains
    name: str = "storyworld"  # of `DATA_SETS`
    extras: tuple[str, ...] = ()  # what examples are to have, see `encoded.example.EXTRAS`
    split: str = "train"
    stories: int = 0  # how many examples of it; 0 = all that are encoded
    heldout_split: str = "heldout"
    heldout_stories: int = 8  # whose loss is measured every `train.sample_every` updates
    sample_stories: int = 2  # of them, drawn as strips
    sample_chunks: int = 5
    seed: int = 0
    max_damaged: int = 10  # examples left out because they cannot be read; more are refused

    def __post_init__(self):
        """Raises `UserError` for an unknown data set or extra, and for numbers out of bounds."""
        names = (*DATA_SETS, *KEPT)
        for field, legal in {"name": names, "loader": tuple(LOADERS)}.items():
            if getattr(self, field) not in legal:
                raise UserError(
                    f"data.{field} is {getattr(self, field)!r}; it can be {', '.join(legal)}"
                )
        if not (self.latents or self.pictures):
            raise UserError(
                "data.latents and data.pictures are both empty; one of them must name a folder"
            )
        known_extras(self.extras)
        check_range(
            self,
            "data",
            names=("stories", "seed", "first", "fresh", "most", "workers", "max_damaged"),
        )
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


def shards_of(command: str) -> Opener:
    """Opens shards of encoded examples (`encoded.records`) that `command` has written."""

    def open_split(
        data: DataConfig, model: ModelConfig, split: str, examples: int | None
    ) -> Source:
        from data_pipelines.encoded.records import (
            open_records,
        )  # here, because it needs ArrayRecord

        root = Path(data.latents)
        check_weights(root, data.weights, model, how_to_make(command, root))
        return open_records(root, split, data.extras, examples, command)

    return open_split


KEPT = {
    "returns": open_returns,
    "cuts": open_cuts,
}  # (folder of weights, folder, split) -> examples

DATA_SETS: dict[str, Opener] = {
    "storyworld": folder_of("python -m data_pipelines.storyworld.encode"),
    "lvbench": folder_of("python -m data_pipelines.lvbench.encode"),
    "films": shards_of("python -m data_pipelines.encode"),
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


def open_data(
    data: DataConfig, model: ModelConfig, batch_size: int, rows: Sequence[int] | None = None
) -> TrainingData:
    """Opens the held-out split; the training split is opened by `make`.

    Args:
        data: the section.
        model: the model that is trained, with the VAE and the text encoder that encode.
        batch_size: examples of an update.
        rows: those of each batch that this process reads; None: all.

    Raises:
        UserError: the examples are missing, damaged, of another model or too few, or lack an extra.
    """

    parts = []
    if data.latents:
        opened = _open_kept if data.name in KEPT else _open_clips
        parts.append(opened(data, model, batch_size, rows))
    if data.pictures:
        parts.append(_open_kept(data, model, batch_size, rows, pictures=True))
    if len(parts) == 1:
        return parts[0]
    clips, pictures = parts
    return TrainingData(
        heldout=clips.heldout | pictures.heldout,
        null_text=clips.null_text,
        make=lambda: Merged({"clips": clips.make(), "pictures": pictures.make()}),
    )


def _open_clips(
    data: DataConfig, model: ModelConfig, batch_size: int, rows: Sequence[int] | None
) -> TrainingData:
    from data_pipelines.encoded.batches import batches, check_fits  # here, because it needs Grain

    def opened(split: str, examples: int | None) -> Source:
        source = DATA_SETS[data.name](data, model, split, examples)
        check_fits(source, model)
        return source

    heldout = opened(data.heldout_split, None)
    return TrainingData(
        heldout=without_numbers(next(batches(heldout, data.heldout_stories, 0))),
        null_text=heldout.null_text,
        make=lambda: batches(
            opened(data.split, data.stories or None), batch_size, data.seed, rows, data.max_damaged
        ),
    )


def without_numbers(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch without the numbers of its examples."""
    return {name: array for name, array in batch.items() if name != EXAMPLE}


def _open_kept(
    data: DataConfig,
    model: ModelConfig,
    batch_size: int,
    rows: Sequence[int] | None,
    pictures: bool = False,
) -> TrainingData:
    folder, open_split = data.latents, KEPT.get(data.name)
    if pictures:
        folder, open_split = data.pictures, open_pictures
    replay = Replay(batch_size, data.first, data.fresh, data.most, data.seed)
    heldout = open_split(data.weights, folder, data.heldout_split)
    opening = Opening(open_split, (data.weights, folder, data.split))
    train = dataclasses.replace(heldout, split=data.split)  # by the same encoders
    return TrainingData(
        heldout=heldout.batch(range(data.heldout_stories)),
        null_text=read_null_text(folder),
        make=lambda: share(
            LOADERS[data.loader](train, opening, replay, data.workers),
            batch_size,
            rows,
        ),
    )
