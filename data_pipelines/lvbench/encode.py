"""Encodes the videos of a local copy of LV-Bench (`builder`), once, for the DiT's training:

    python -m data_pipelines.lvbench.encode --weights=runs/mini --data=data/tfds --out=data/lvbench --chunks=10

A video gives as many examples (`data_pipelines.encoded`) as it has times `--chunks` whole chunks; each begins with
the last frame of the one before. What is shorter is left out, and there is no ground truth: examples have no extras.
One file per example, written atomically, so the command can be killed and run again.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from bvjax import console
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.lvbench.dataset.split import SPLITS
from bvjax.media.source_video import read_frames
from bvjax.story import Story
from data_pipelines.encoded.encoders import encode_clip, load_encoders
from data_pipelines.encoded.folder import example_path, write_example, write_null_text
from data_pipelines.encoded.manifest import claim


def encode(
    weights: Path, source: Sequence[Mapping[str, Any]], root: Path, split: str, chunks: int
) -> tuple[int, int]:
    """Encodes the examples that are not there yet.

    Args:
        weights: folder with the VAE and the text encoder.
        source: rows of the dataset, see `builder.features`.
        root: folder of encoded examples.
        split: the folder in it.
        chunks: of an example.

    Returns:
        The number of examples there are, and of videos that are too short for one.

    Raises:
        UserError: no chunks, `root` holds examples encoded by other weights, the model's chunks are not cut as
            training cuts them, a video cannot be decoded or a caption is too long.
    """
    if chunks < 1:
        raise UserError(f"`chunks` is {chunks}; it must be 1 or more")
    encoders = load_encoders(weights)
    first = encoders.model.chunk.first
    if first != "separate":
        raise UserError(f"examples have chunks cut as chunk.first='separate', not {first!r}")
    claim(root, weights, encoders.model)
    write_null_text(root, encoders.text([""])[0][0])
    written, short = 0, 0
    for row in tqdm(source, unit="video", disable=None):
        name, before = row["id"].decode(), written
        for start, frames, captions in windows(row, encoders.model, chunks):
            path = example_path(root, split, f"{name}/{start:05d}")
            written += 1
            if path.exists():
                continue
            try:
                write_example(path, encode_clip(encoders, frames, captions))
            except UserError as error:
                raise UserError(f"{name}, chunks from {start + 1} on: {error}") from None
        short += written == before
    return written, short


def windows(
    row: Mapping[str, Any], model: ModelConfig, chunks: int
) -> Iterator[tuple[int, UInt8[np.ndarray, "f H W 3"], tuple[str, ...]]]:
    """The clips of `chunks` chunks that a video consists of, from its first frame on.

    Yields:
        How many chunks of the video come before, the frames in the model's rate and size (the frame
        before its first chunk too), and the caption of each chunk (`Story.chunk_captions`).

    Raises `UserError` for a video that cannot be decoded.
    """
    grid, chunk = ChunkGrid.of(model, chunks), model.chunk
    spans = tuple((float(a), float(b)) for a, b in zip(row["start"], row["stop"], strict=True))
    story = Story(tuple(caption.decode() for caption in row["captions"]), spans)
    captions = story.chunk_captions(grid.seconds_per_chunk)
    pictures = read_frames(
        io.BytesIO(row["video"]), chunk.fps, chunk.height, chunk.width, name=row["id"].decode()
    )
    frames: list[np.ndarray] = []
    for start in range(0, len(captions) - chunks + 1, chunks):
        for picture in pictures:
            frames.append(picture)
            if len(frames) == grid.num_frames:
                break
        else:
            return
        yield start, np.stack(frames), captions[start : start + chunks]
        frames = frames[-1:]


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and encode; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.lvbench.encode",
        description="Encodes a local copy of LV-Bench, built by the builder, for training.",
    )
    for name, default, what in (
        ("--weights", "runs/mini", "with vae and text"),
        ("--data", "data/tfds", "that the builder has written (its --out)"),
        ("--out", "data/lvbench", "of encoded examples"),
    ):
        parser.add_argument(
            name, type=console.path, default=Path(default), metavar="DIR", help=f"folder {what}"
        )
    parser.add_argument("--name", default="local", help="of the dataset, where there are several")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--chunks", type=int, default=10, help="of an example (default 10)")
    a = parser.parse_args(argv)

    def command() -> None:
        # Here, because tfds takes seconds to import.
        from data_pipelines.lvbench.builder import lvbench_source

        with console.going_on(console.AGAIN):
            source = lvbench_source(a.data, a.split, a.name)
            written, short = encode(a.weights, source, a.out, a.split, a.chunks)
        left = f"; {short} videos are shorter than {a.chunks} chunks: left out" if short else ""
        print(f"{a.out / a.split} has {written} examples of {len(source) - short} videos{left}")

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
