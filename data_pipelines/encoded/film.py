"""One film to encoded examples in a folder of parts (`shards`), as a stream of frames."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError
from bvjax.files import write_atomic
from bvjax.tokenizer import Tokenizer
from data_pipelines.encoded import shards
from data_pipelines.encoded.encoders import Encoders, encode_clip
from data_pipelines.encoded.folder import read_example, write_example
from data_pipelines.encoded.latent_statistics import Statistics
from data_pipelines.encoded.windows import (
    FilmEnds,
    Frames,
    Take,
    film_frames,
    num_windows,
    windows,
)

DTYPES = ("float16", "float32")


@dataclasses.dataclass(frozen=True)
class Film:
    """A film to be encoded.

    Args:
        name: of it.
        path: of its file.
        takes: in order.
        split: the side that it is on.
        content: a hash of its file, where it is known: a film that was replaced is encoded anew.
    """

    name: str
    path: Path
    takes: tuple[Take, ...]
    split: str
    content: str = ""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings by which examples are made and kept.

    Args:
        chunks: of an example.
        dtype: of latents and text states, one of `DTYPES`.
        shard_bytes: after which a shard is full.
        share: (i, n): this process takes those films whose names' hash is i modulo n.
    """

    chunks: int
    dtype: str = "float16"
    shard_bytes: int = shards.SHARD_BYTES
    share: tuple[int, int] = (0, 1)

    def __post_init__(self):
        if self.chunks < 1:
            raise UserError(f"`chunks` is {self.chunks}; it must be 1 or more")
        if self.dtype not in DTYPES:
            raise UserError(f"`dtype` is {self.dtype!r}; it can be {', '.join(DTYPES)}")
        if self.shard_bytes < 1:
            raise UserError(f"a shard of {self.shard_bytes} bytes holds nothing")

    def own(self, name: str) -> bool:
        """Returns whether a film is this process' to encode."""
        digest = hashlib.sha256(name.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.share[1] == self.share[0]

    @property
    def prefix(self) -> str:
        """Beginning of the names of this process' shards."""
        i, n = self.share
        return "" if n == 1 else f"{i}of{n}-"


def source_of(film: Film) -> str:
    """A hash of the takes and captions of a film, and of its file's where it is known."""
    takes = [(str(take.start), *take.captions) for take in film.takes]
    return shards.captions_hash([*takes, (film.content,)] if film.content else takes)


def fitting(film: Film, tokenizer: Tokenizer, room: int) -> tuple[Film, int]:
    """The film with captions that the text encoder has room for, and how many were shortened (`shortened`)."""
    takes = tuple(
        dataclasses.replace(
            take, captions=tuple(shortened(text, tokenizer, room) for text in take.captions)
        )
        for take in film.takes
    )
    pairs = zip(film.takes, takes, strict=True)
    count = sum(
        a != b for old, new in pairs for a, b in zip(old.captions, new.captions, strict=True)
    )
    return dataclasses.replace(film, takes=takes), count


def shortened(caption: str, tokenizer: Tokenizer, room: int) -> str:
    """As many whole words of a caption, from its first one on, as make `room` tokens at most; all where they fit.

    A caption whose first word alone is too long stays as it is, and the tokenizer refuses it.
    """
    if tokenizer.count(caption) <= room:
        return caption
    words = caption.split()
    fits, most = 0, len(words)
    while fits < most:  # tokens grow with words
        middle = (fits + most + 1) // 2
        if tokenizer.count(" ".join(words[:middle])) <= room:
            fits = middle
        else:
            most = middle - 1
    return " ".join(words[:fits]) or caption


def encode_film(encoders: Encoders, film: Film, root: Path, options: Options) -> shards.Part:
    """Writes the examples of a film that are not there and says that it is whole; raises `UserError`."""
    folder = shards.part_folder(root, film.split, film.name)
    source, marker = source_of(film), folder / "source.txt"
    if marker.exists() and marker.read_bytes() != source.encode():
        shutil.rmtree(folder)  # begun with other captions
    model, chunks = encoders.model, options.chunks
    if num_windows(film.takes, chunks):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(marker, source.encode())
    names: list[str] = []
    statistics, taken = Statistics.none(), 0
    frames = film_frames(film.path, model, film.name)
    length = ChunkGrid.of(model).config.frames
    try:
        for take, start, window, captions in windows(frames, film.takes, model, chunks):
            names.append(f"{take.start + start * length:07d}")  # the frame with which it begins
            try:
                latents = _example(encoders, folder / f"{names[-1]}.npz", window, captions, options)
            except FilmEnds:
                names.pop()
                break
            taken += window.taken
            statistics = statistics + Statistics.of(latents)
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    part = shards.Part(film.name, source, tuple(names), taken, statistics)
    shards.write_part(folder, part)
    return part


def _example(
    encoders: Encoders, path: Path, window: Frames, captions: Sequence[str], options: Options
) -> Float[np.ndarray, "l h w z"]:
    """The latents of an example, from its file or encoded now; raises `UserError`."""
    if path.exists():
        try:
            latents = read_example(path)["latents"]
        except UserError:  # damaged: made again
            pass
        else:
            window.skip()
            return latents
    arrays = encode_clip(encoders, window, captions, dtype=options.dtype)
    write_example(path, arrays)
    return arrays["latents"]
