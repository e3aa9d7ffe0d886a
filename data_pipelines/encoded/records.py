"""A `Source` of the examples in shards, read record by record when they are asked for."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import Float, Int32

from bvjax.array_files import first_line, read_npz_bytes
from bvjax.errors import UserError
from data_pipelines.encoded.example import (
    REQUIRED,
    TEXTS,
    ExampleSpec,
    check_example,
    known_extras,
    padded,
)
from data_pipelines.encoded.folder import (
    check_asked,
    check_count,
    how_to_make,
    read_null_text,
)
from data_pipelines.encoded.intact import DamagedExample
from data_pipelines.encoded.shards import Shard, read_shards

_OPTIONS = "readahead_buffer_size:0"
_OPEN = 64  # files at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The first `count` examples of a split's shards.

    A record that is damaged, or a shard that is missing or cut, raises `DamagedExample` for what it held; the rest can
    be read (`intact.Intact` leaves out and counts).
    """

    root: Path
    split: str
    spec: ExampleSpec
    null_text: Float[np.ndarray, "t dt"]
    shards: tuple[Shard, ...]
    count: int
    _starts: list[int] = dataclasses.field(repr=False)
    _names: list[str] = dataclasses.field(repr=False)
    _numbers: Int32[np.ndarray, "n"] = dataclasses.field(repr=False)  # of their records
    _readers: dict[int, Any] = dataclasses.field(default_factory=dict, repr=False)
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    @property
    def title(self) -> str:
        return f"the examples in {self.root / self.split}"

    def name_of(self, number: int) -> str:
        """The film and the place in it."""
        return self._names[number]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of `spec`, float32; raises `DamagedExample`."""
        arrays, spec = read_arrays(self._record(index), self._names[index])
        length = self.spec.text[0]
        lacking = [name for name in self.spec.extras if name not in arrays]
        sizes = dataclasses.replace(
            spec, text=(length, spec.text[1]), extras=self.spec.extras if not lacking else ()
        )
        if sizes != self.spec or spec.text[0] > length:
            raise DamagedExample("it is of other sizes than the first one")
        chosen = {name: arrays[name].astype(np.float32) for name in (*REQUIRED, *self.spec.extras)}
        return {name: padded(a, length) if name in TEXTS else a for name, a in chosen.items()}

    def _record(self, index: int) -> bytes:
        if not 0 <= index < self.count:
            raise IndexError(index)
        shard = bisect.bisect_right(self._starts, index) - 1
        with self._lock:
            try:
                return self._reader(shard).read([int(self._numbers[index])])[0]
            except (RuntimeError, IndexError) as error:  # the library's kinds
                raise DamagedExample(
                    f"{self.shards[shard].path}: {first_line(error).partition(';')[0]}"
                ) from None

    def _reader(self, shard: int) -> Any:
        """The shard's reader, of those used last."""
        reader = self._readers.pop(shard, None)
        if reader is None:
            reader = ArrayRecordReader(str(self.shards[shard].path), _OPTIONS)
        self._readers[shard] = reader
        if len(self._readers) > _OPEN:
            self._readers.pop(next(iter(self._readers))).close()
        return reader


def read_arrays(content: bytes, name: str) -> tuple[dict[str, np.ndarray], ExampleSpec]:
    """The arrays in a record and their sizes; raises `DamagedExample`."""
    try:
        arrays = read_npz_bytes(content, name)
        return arrays, check_example(arrays, name)
    except UserError as error:
        raise DamagedExample(str(error)) from None


def open_records(
    root: str | Path,
    split: str,
    extras: Iterable[str] = (),
    examples: int | None = None,
    command: str = "",
) -> Records:
    """Opens the first `examples` examples of a split (all when None); their sizes are the first intact one's.

    Args:
        root: the folder.
        split: the folder in it.
        extras: those that examples are to have.
        examples: how many.
        command: `python -m MODULE` that makes such folders, named where there is nothing.

    Raises:
        UserError: there are too few, or none can be read, or the first has not the extras.
    """
    root, requested = Path(root), known_extras(extras)
    shards = tuple(read_shards(root, split))
    names = [name for shard in shards for name in shard.examples]
    check_count(root / split, len(names), examples, how_to_make(command, root))
    null = read_null_text(root)
    sizes = [len(shard.records) for shard in shards]
    numbers = np.array([number for shard in shards for number in shard.records], np.int32)
    starts = list(itertools.accumulate(sizes[:-1], initial=0))
    unknown = ExampleSpec(0, 0, (0, 0, 0), (0, 0))
    source = Records(
        root, split, unknown, null, shards, examples or len(names), starts, names, numbers
    )
    spec = _first_spec(source)
    check_asked(str(root / split), spec.extras, requested, spec.text, null)
    return dataclasses.replace(
        source, spec=dataclasses.replace(spec, text=null.shape, extras=requested)
    )


def _first_spec(source: Records) -> ExampleSpec:
    problem = ""
    for index in range(len(source)):
        try:
            return read_arrays(source._record(index), source.name_of(index))[1]
        except DamagedExample as error:
            problem = problem or str(error)
    raise UserError(f"none of {source.title} can be read: {problem}")
