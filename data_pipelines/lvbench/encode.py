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

from tqdm import tqdm

from bvjax import console
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.lvbench.dataset.split import SPLITS
from bvjax.story import Story
from data_pipelines.encoded.encoders import check_arrangement, encode_clip, load_encoders
from data_pipelines.encoded.folder import example_path, write_example, write_null_text
from data_pipelines.encoded.manifest import claim
from data_pipelines.encoded.windows import FilmEnds, Frames, Take, film_frames, windows


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
    check_arrangement(encoders.model)
    claim(root, weights, encoders.model)
    write_null_text(root, encoders.text([""])[0][0])
    written, short = 0, 0
    for row in tqdm(source, unit="video", disable=None):
        before, name = written, row["id"].decode()
        for _, start, frames, captions in clips(row, encoders.model, chunks):
            path = example_path(root, split, f"{name}/{start:05d}")
            try:
                if path.exists():
                    frames.skip()
                else:
                    write_example(path, encode_clip(encoders, frames, captions))
            except FilmEnds:
                break
            except UserError as error:
                raise UserError(f"{name}, chunks from {start + 1} on: {error}") from None
            written += 1
        short += written == before
    return written, short


def clips(
    row: Mapping[str, Any], model: ModelConfig, chunks: int
) -> Iterator[tuple[Take, int, Frames, tuple[str, ...]]]:
    """The windows of a video (`encoded.windows`), with the caption of each chunk (`Story.chunk_captions`).

    Raises `UserError` for a video that cannot be decoded, as its frames are taken.
    """
    spans = tuple((float(a), float(b)) for a, b in zip(row["start"], row["stop"], strict=True))
    story = Story(tuple(caption.decode() for caption in row["captions"]), spans)
    name = row["id"].decode()
    captions = story.chunk_captions(ChunkGrid.of(model).seconds_per_chunk)
    frames = film_frames(io.BytesIO(row["video"]), model, name)
    return windows(frames, [Take(0, captions)], model, chunks)


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
    parser.add_argument(
        "--dataset", choices=("lv_bench", "long_takes"), default="lv_bench", help="which of them"
    )
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--chunks", type=int, default=10, help="of an example (default 10)")
    a = parser.parse_args(argv)

    def command() -> None:
        # Here, because tfds takes seconds to import.
        from data_pipelines.lvbench.builder import lvbench_source

        with console.going_on(console.AGAIN):
            source = lvbench_source(a.data, a.split, a.name, a.dataset)
            written, short = encode(a.weights, source, a.out, a.split, a.chunks)
        left = f"; {short} videos are shorter than {a.chunks} chunks: left out" if short else ""
        print(f"{a.out / a.split} has {written} examples of {len(source) - short} videos{left}")

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
