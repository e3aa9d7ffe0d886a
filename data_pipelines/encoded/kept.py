"""Examples that are made when they are first asked for and kept in a folder.

Files are ROOT/SPLIT/NNNNNNN.npz beside the manifest of the weights that encode. An example is a function of its index
alone, so that a folder may be filled by several processes at once, in any order, and be deleted at any time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from bvjax.array_files import read_npz
from bvjax.errors import UserError
from bvjax.files import npz_bytes, write_atomic
from bvjax.finite import is_finite
from data_pipelines.encoded.encoders import Encoders, load_encoders
from data_pipelines.encoded.example import padded, trimmed
from data_pipelines.encoded.folder import write_null_text
from data_pipelines.encoded.manifest import claim

Arrays = dict[str, np.ndarray]
Maker = Callable[[Encoders, str, int], Arrays]


@dataclasses.dataclass(frozen=True)
class KeptExamples:
    """Random access to the examples of a split.

    Args:
        root: the folder.
        split: of the stories that they are made of, and the folder in `root`.
        encoders: of the weights that encode.
        make: makes an example of encoders, split and index: arrays whose sizes are the same for all.
        texts: names of its arrays of text states [..., t, dt], kept without the rows that pad them.
    """

    root: Path
    split: str
    encoders: Encoders
    make: Maker
    texts: tuple[str, ...]

    def path(self, index: int) -> Path:
        """Returns the file of example `index`."""
        return self.root / self.split / f"{index:07d}.npz"

    def __getitem__(self, index: int) -> Arrays:
        """The arrays of an example, float32, from its file or made now; a damaged file is made again.

        Raises:
            UserError: a caption is longer than the text encoder's `text.max_length`.
        """
        try:
            arrays = read_npz(self.path(index))
            if not all(is_finite(array) for array in arrays.values()):
                arrays = self.write(index)
        except (FileNotFoundError, UserError):
            arrays = self.write(index)
        whole = {name: array.astype(np.float32) for name, array in arrays.items()}
        return whole | {name: self._padded(whole[name]) for name in self.texts}

    def write(self, index: int) -> Arrays:
        """Makes an example and writes its file; returns what the file holds."""
        made = self.make(self.encoders, self.split, index)
        arrays = made | {name: trimmed(made[name]) for name in self.texts}
        path = self.path(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, npz_bytes(**arrays))
        return arrays

    def missing(self, indices: Iterable[int]) -> list[int]:
        """Returns those of the indices that have no file."""
        return [index for index in indices if not self.path(index).exists()]

    def batch(self, indices: Iterable[int]) -> Arrays:
        """Returns examples stacked, [b, ...]."""
        examples = [self[int(index)] for index in indices]
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

    def _padded(self, text: np.ndarray) -> np.ndarray:
        rows = self.encoders.model.text.max_length
        if text[:, rows:].any():
            raise UserError(f"captions in {self.root} are longer than text.max_length = {rows}")
        return padded(text[:, :rows], rows)


def open_kept(
    weights: str | Path, root: str | Path, split: str, make: Maker, texts: tuple[str, ...]
) -> KeptExamples:
    """Opens a folder for the examples that the encoders of a weights folder make.

    Raises:
        UserError: `root` holds examples encoded by other weights.
    """
    root = Path(root)
    encoders = load_encoders(weights)
    claim(root, weights, encoders.model)
    write_null_text(root, encoders.text([""])[0][0])
    return KeptExamples(root, split, encoders, make, texts)
