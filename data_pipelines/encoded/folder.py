"""A folder of encoded examples: ROOT/SPLIT/NAME.npz, with manifest.json and null_text.npy in ROOT.

Text states are stored without the rows of zeros that pad them and read with them. Names of arrays that have changed
since a file was made are read as what they are called now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote

import numpy as np
from jaxtyping import Float

from bvjax import console
from bvjax.array_files import read_npy, read_npz
from bvjax.errors import UserError
from bvjax.files import npy_bytes, npz_bytes, write_atomic
from bvjax.finite import is_finite
from data_pipelines.encoded.example import (
    REQUIRED,
    TEXTS,
    ExampleSpec,
    check_example,
    known_extras,
    padded,
    trimmed,
)

NULL_TEXT = "null_text.npy"
OLD_ARRAYS = {"described": "standalone"}  # old name: the one that it has now
_AGAIN = "if it is to be one, delete it and encode it again"


# ---- writing ------------------------------------------------------------------------------------
def example_path(root: str | Path, split: str, name: str) -> Path:
    """The file of an example; `name` may have folders in it."""
    return Path(root) / split / f"{name}.npz"


def write_example(path: Path, arrays: Mapping[str, np.ndarray], own: Iterable[str] = ()) -> None:
    """Writes an example (and arrays of the data set's `own`), whole or not at all.

    Raises:
        UserError: they are not an example, see `example.check_example`.
    """
    check_example(arrays, str(path), own)
    stored = {name: trimmed(a) if name in TEXTS else a for name, a in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, npz_bytes(**stored))


def write_null_text(root: Path, states: Float[np.ndarray, "t dt"]) -> None:
    """Writes the text states of the empty caption: they say how long those of examples are with their padding."""
    root.mkdir(parents=True, exist_ok=True)
    write_atomic(root / NULL_TEXT, npy_bytes(states))


# ---- reading ------------------------------------------------------------------------------------
def read_example(
    path: Path, text_length: int | None = None, own: Iterable[str] = ()
) -> dict[str, np.ndarray]:
    """Returns the arrays of an example as they were stored; arrays of no known name come along unseen.

    Args:
        path: an .npz file.
        text_length: rows that text states are padded to; None leaves them as they are.
        own: names of arrays of the data set's own, checked where the file has them.

    Raises:
        UserError: there is no file, it is damaged, it is not an encoded example or its text states are
            longer than `text_length`.
    """
    arrays, _ = _read(path, own)
    if text_length is None:
        return arrays
    for name in TEXTS:
        if name in arrays:
            rows = arrays[name].shape[1]
            if rows > text_length:
                raise UserError(
                    f"{path} is of another model: {name} has {rows} rows a caption, not {text_length}"
                )
            arrays[name] = padded(arrays[name], text_length)
    return arrays


def _read(path: Path, own: Iterable[str] = ()) -> tuple[dict[str, np.ndarray], ExampleSpec]:
    """The arrays of a file under the names they have now, and the sizes of the example that they are."""
    try:
        stored = read_npz(path)
    except FileNotFoundError:
        raise UserError(f"there is no {path}") from None
    except UserError as error:
        raise UserError(f"{error}, so it is no encoded example; {_AGAIN}") from None
    arrays = {OLD_ARRAYS.get(name, name): array for name, array in stored.items()}
    try:
        return arrays, check_example(arrays, str(path), own)
    except UserError as error:
        again = (
            f"; {_AGAIN}" if all(name in arrays for name in REQUIRED) else ""
        )  # else another file
        raise UserError(f"{error}{again}") from None


def read_null_text(root: str | Path) -> Float[np.ndarray, "t dt"]:
    """Text states of the empty caption, float32; raises `UserError`."""
    path = Path(root) / NULL_TEXT
    try:
        states = read_npy(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(console.os_sentence(error)) from None
    if states.ndim != 2 or states.dtype.kind != "f" or not is_finite(states):
        raise UserError(f"{path} is {list(states.shape)} {states.dtype}, not finite text states")
    return states.astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleFolder:
    """A `Source` of the examples of a split, held in memory as they are stored."""

    root: Path
    split: str
    spec: ExampleSpec
    null_text: Float[np.ndarray, "t dt"]
    items: tuple[dict[str, np.ndarray], ...] = dataclasses.field(repr=False)

    @property
    def title(self) -> str:
        return f"the examples in {self.root / self.split}"

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of `spec`, float32."""
        arrays = {name: array.astype(np.float32) for name, array in self.items[index].items()}
        length = self.spec.text[0]
        return {name: padded(a, length) if name in TEXTS else a for name, a in arrays.items()}


def open_folder(
    root: str | Path,
    split: str,
    extras: Iterable[str] = (),
    examples: int | None = None,
    command: str = "",
) -> ExampleFolder:
    """Reads the first `examples` files of a split, in the order of their names (all when None).

    Args:
        root: the folder.
        split: the folder in it.
        extras: those that examples are to have; others that the files have are left out.
        examples: how many.
        command: `python -m MODULE` that makes such folders, named where one is missing.

    Raises:
        UserError: there are too few, they are not all of one size, one is damaged or lacks an extra.
    """
    root, requested = Path(root), known_extras(extras)
    files = sorted((root / split).rglob("*.npz"))
    check_count(root / split, len(files), examples, how_to_make(command, root, split))
    null, files = read_null_text(root), files[:examples]
    items, specs = [], []
    for path in files:
        arrays, sizes = _read(path)
        rows = max(a.shape[1] for name, a in arrays.items() if name in TEXTS)
        states = rows, arrays["text"].shape[2]
        check_asked(str(path), arrays, requested, states, null)
        items.append({name: arrays[name] for name in (*REQUIRED, *requested)})
        specs.append(dataclasses.replace(sizes, text=null.shape, extras=requested))
    lengths = sorted({spec.chunks for spec in specs})
    if len(lengths) > 1:
        raise UserError(
            f"{root / split} holds examples of {' and '.join(map(str, lengths))} chunks; one folder "
            "holds examples of one number of chunks"
        )
    for path, spec in zip(files, specs, strict=True):
        if spec != specs[0]:
            raise UserError(
                f"the examples in {root / split} are of different models: {path.name} has "
                f"{_shapes_text(spec)}, {files[0].name} has {_shapes_text(specs[0])}"
            )
    return ExampleFolder(root, split, specs[0], null, tuple(items))


def check_count(where: Path, count: int, wanted: int | None, how: str) -> None:
    """Raises `UserError` where a folder has fewer examples than are wanted, or none; `how` ends the sentence."""
    if count < max(wanted or 0, 1):
        raise UserError(f"{where} holds {count} encoded examples, {wanted or 1} are wanted{how}")


def check_asked(
    where: str,
    names: Iterable[str],
    extras: Iterable[str],
    text: tuple[int, int],
    null: Float[np.ndarray, "t dt"],
) -> None:
    """Raises `UserError` for examples that lack what is asked of them.

    Args:
        where: whose they are; the sentence begins with it.
        names: of the arrays or extras that they have.
        extras: that they are to have.
        text: rows of a caption and width of their text states.
        null: the folder's text states of the empty caption, which are as long as any may be.
    """
    known = set(names)
    lacking = [name for name in extras if name not in known]
    if lacking:
        raise UserError(
            f"{where} has no {' and no '.join(lacking)}; leave it out of data.extras or encode the "
            "clips with it"
        )
    if text[0] > len(null) or text[1] != null.shape[1]:
        raise UserError(
            f"{where} and the folder's {NULL_TEXT} are of different models: text states {list(text)} and "
            f"{list(null.shape)}"
        )


def how_to_make(command: str, root: Path, split: str = "") -> str:
    """Ends a sentence about what is missing with the command that makes it."""
    option = f" --split {split}" if split else ""
    return f"; make them with {command} --out {quote(str(root))}{option}" if command else ""


def _shapes_text(spec: ExampleSpec) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in spec.shapes().items())
