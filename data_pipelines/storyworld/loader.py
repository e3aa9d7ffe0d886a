"""Grain pipelines over storyworld: shuffled, endless, and able to say and take back where they stand."""

from __future__ import annotations

import zipfile
from pathlib import Path

import grain.python as grain
import numpy as np

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.files import read_json
from data_pipelines.storyworld.latents import manifest


class LatentStories(grain.RandomAccessDataSource):
    """Encoded stories (`data_pipelines.storyworld.latents`), held in memory as float16.

    An item has latents [1 + C L, h, w, z], text and described [C, T, Dt], embedding [C, Dt], relevance [C, C], all float32.
    """

    def __init__(self, root: str | Path, split: str = "train", stories: int | None = None):
        """Reads the first `stories` files (all when None).

        Raises:
            UserError: there are too few, or they are not all of one length.
        """
        files = sorted((Path(root) / split).glob("story_*.npz"))
        if not files or (stories or 0) > len(files):
            raise UserError(
                f"{root}/{split} holds {len(files)} encoded stories, {stories or 1} are wanted; "
                f"make them with python -m data_pipelines.storyworld.encode --out {root} --split {split}"
            )
        self._items = [_read(path) for path in files[:stories]]
        lengths = sorted({len(item["text"]) for item in self._items})
        if len(lengths) > 1:
            raise UserError(
                f"{root}/{split} holds stories of {' and '.join(map(str, lengths))} chunks; "
                "one folder holds stories of one length"
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
    """Text states [T, Dt] of the empty caption, made with the encoded stories."""
    return np.load(Path(root) / "null_text.npy").astype(np.float32)


def check_latents(root: str | Path, weights: str | Path, model: ModelConfig) -> None:
    """Raises `UserError` unless the stories in `root` were encoded by these weights."""
    path = Path(root) / "manifest.json"
    if not path.exists():
        raise UserError(
            f"{path} is missing; make it with "
            f"python -m data_pipelines.storyworld.encode --weights {weights} --out {root}"
        )
    if read_json(path) != manifest(weights, model):
        raise UserError(f"the stories in {root} were encoded by other weights than {weights}")


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            return {
                key: file[key] for key in ("latents", "text", "described", "embedding", "relevance")
            }
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and encode it again") from None
