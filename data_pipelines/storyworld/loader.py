"""Grain pipelines over storyworld: shuffled, endless, and able to say and take back where they stand."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import grain.python as grain
import numpy as np

from bvjax import console
from bvjax.array_files import read_npy
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.files import read_json
from bvjax.finite import is_finite
from data_pipelines.storyworld.latents import TRAINED_ON, manifest, read_story


class LatentStories(grain.RandomAccessDataSource):
    """Encoded stories (`data_pipelines.storyworld.latents`), held in memory as float16.

    An item has latents [1 + C L, h, w, z], text and described [C, T, Dt], embedding [C, Dt], relevance [C, C], all float32.
    """

    def __init__(self, root: str | Path, split: str = "train", stories: int | None = None):
        """Reads the first `stories` files (all when None).

        Raises:
            UserError: there are too few, they are not all of one length and size, or one is damaged.
        """
        files = sorted((Path(root) / split).glob("story_*.npz"))
        if not files or (stories or 0) > len(files):
            raise UserError(
                f"{root}/{split} holds {len(files)} encoded stories, {stories or 1} are wanted; "
                f"make them with python -m data_pipelines.storyworld.encode --out {quote(str(root))} --split {split}"
            )
        stored = [read_story(path) for path in files[:stories]]
        self._items = [{name: story[name] for name in TRAINED_ON} for story in stored]
        lengths = sorted({len(item["text"]) for item in self._items})
        if len(lengths) > 1:
            raise UserError(
                f"{root}/{split} holds stories of {' and '.join(map(str, lengths))} chunks; "
                "one folder holds stories of one length"
            )
        for path, item in zip(files, self._items, strict=False):
            if _shapes(item) != _shapes(self._items[0]):
                raise UserError(
                    f"the stories in {root}/{split} are of different models: {path.name} has "
                    f"{_shapes(item)}, {files[0].name} has {_shapes(self._items[0])}"
                )

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {key: value.astype(np.float32) for key, value in self._items[index].items()}


def latent_batches(
    root: str | Path, batch: int, seed: int, split: str = "train", stories: int | None = None
) -> grain.DatasetIterator:
    """Endless batches of whole encoded stories; its get_state/set_state resume it exactly."""
    source = LatentStories(root, split, stories)
    if len(source) < batch:
        raise UserError(
            f"a batch of {batch} stories needs as many encoded ones; {root} has {len(source)}"
        )
    dataset = (
        grain.MapDataset.source(source)
        .shuffle(seed=seed)
        .repeat()
        .batch(batch, drop_remainder=True)
    )
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(dataset.to_iter_dataset(options))


def null_text(root: str | Path) -> np.ndarray:
    """Text states [T, Dt] of the empty caption, made with the encoded stories; raises `UserError`."""
    path = Path(root) / "null_text.npy"
    try:
        found = read_npy(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(console.os_sentence(error)) from None
    if found.ndim != 2 or found.dtype.kind != "f" or not is_finite(found):
        raise UserError(f"{path} is {list(found.shape)} {found.dtype}, not finite text states")
    return found.astype(np.float32)


def check_stories(
    batch: dict[str, np.ndarray], null: np.ndarray, model: ModelConfig, root: str | Path
) -> None:
    """Raises `UserError` unless a batch of encoded stories and the empty caption are of the sizes of `model`."""
    grid, text = ChunkGrid.of(model), (model.text.max_length, model.text.dim)
    chunks = batch["text"].shape[1]
    frames = (1 + chunks * grid.latents_per_chunk, *grid.latent_size, model.dit.in_channels)
    for name, found, wanted in (
        ("latents", batch["latents"].shape[1:], frames),
        ("text", batch["text"].shape[2:], text),
        ("null_text", null.shape, text),
    ):
        if found != wanted:
            raise UserError(
                f"the stories in {root} are of another model: {name} is {list(found)}, not {list(wanted)}"
            )


def check_latents(root: str | Path, weights: str | Path, model: ModelConfig) -> None:
    """Raises `UserError` unless the stories in `root` were encoded by these weights."""
    path = Path(root) / "manifest.json"
    if not path.exists():
        raise UserError(
            f"{path} is missing; make it with "
            f"python -m data_pipelines.storyworld.encode --weights {quote(str(weights))} --out {quote(str(root))}"
        )
    if read_json(path) != manifest(weights, model):
        raise UserError(f"the stories in {root} were encoded by other weights than {weights}")


def _shapes(item: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in item.items())
