"""A tfds dataset of long takes in the form of LV-1.1M (appendix A.6), of a folder that `data_pipelines.curate` made:

    python -m data_pipelines.lvbench.long_takes --folder data/curated --videos films --out data/tfds

LV-1.1M itself is private: a million takes, cut into chunks as the model cuts videos, with captions that tell one story.
A row is a take with the captions of its chunks: LV-Bench's row (`builder.features`), which `Chunks` and
`data_pipelines.lvbench.encode` read, and where it comes from. Its video is an mp4 at the model's frame rate, made anew
of the film. The split is that of the folder's latents (8:2 by film, --seed, unless it is there). The terms of the
films are those of films/rights.json, and their classes, of LV-Bench's, those of films/classes.json:
{"FILM or FOLDER/": "Humans"}.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bvjax import console
from bvjax.errors import UserError
from bvjax.files import read_json_lines, read_json_object
from bvjax.lvbench.dataset.checks import CLASSES
from bvjax.lvbench.dataset.split import SPLITS
from bvjax.media.source_video import fitted, pick_frames
from bvjax.media.video_io import VideoWriter
from data_pipelines.curation.card import CARD, rights_of, terms
from data_pipelines.curation.check_rows import MANIFEST, check_manifest
from data_pipelines.curation.clips import even_size
from data_pipelines.curation.rows import Row, by_film, is_kept
from data_pipelines.encoded.film_folder import sides_of
from data_pipelines.lvbench import builder
from data_pipelines.lvbench.origins import table

VERSION = "1.0.0"  # raise it when the features change
LATENTS = "latents"  # where `curate` keeps the split
KNOWN = "classes.json"
NOT_KNOWN = -1


@dataclasses.dataclass(kw_only=True)
class LongTakesConfig(tfds.core.BuilderConfig):
    """The folder that `curate` made, and that of the films ("": none). side: most pixels of the shorter side."""

    name: str = "local"
    folder: str = ""
    videos: str = ""
    side: int = 720
    seed: int = 0

    def __post_init__(self):
        if not re.fullmatch(r"[\w-]+", self.name):
            raise UserError(f"the name {self.name!r} is not of letters, digits, - and _ alone")
        if not 16 <= self.side <= 4096:
            raise UserError(f"`side` is {self.side}; it can be 16 to 4096")


def features() -> tfds.features.FeaturesDict:
    """LV-Bench's, and the film, the second of it at which the take begins, how it begins, and the film's terms."""
    text = tfds.features.Text()
    more = {"film": text, "film_start": np.float32, "begins": text, "terms": text}
    return tfds.features.FeaturesDict({**builder.features(), **more})


class LongTakes(tfds.core.GeneratorBasedBuilder):
    """Takes in the order of the manifest."""

    VERSION = tfds.core.Version(VERSION)
    code_path = Path(__file__)  # as `builder.LVBench` has it

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="\n".join(
                [f"Long takes with captions; {CARD} of their folder says how they came to be.",
                 "LV-1.1M and LV-Bench, after which this is made, took theirs from:", "", *table()]
            ),
            features=features(),
            disable_shuffling=True,  # readers shuffle
        )  # fmt: skip

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        sides = split_takes(self.builder_config)
        return {side: self._generate_examples(films) for side, films in sides.items()}

    def _generate_examples(
        self, films: Mapping[str, list[Row]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        config, number = self.builder_config, 0
        videos = Path(config.videos) if config.videos else None
        rights = rights_of(videos) if videos else {}
        classes = classes_of(videos) if videos else {}
        for film, rows in films.items():
            of_film = {"terms": terms(film, rights), "class": class_of(film, classes)}
            for row, video, size in take_videos(rows, config.side):
                yield number, example(row, video, size) | of_film
                number += 1


def split_takes(config: LongTakesConfig) -> dict[str, dict[str, list[Row]]]:
    """The takes of each split, by film; raises `UserError` for a folder without takes, or with rows that are none."""
    folder = Path(config.folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    lines = read_json_lines(folder / MANIFEST, "the manifest")
    if not all(isinstance(row, dict) for _, row in lines):
        raise UserError(f"the manifest {folder / MANIFEST} has lines that are no objects")
    places = [(f"line {number}", row) for number, row in lines]
    for problem in check_manifest(places, folder):
        raise UserError(f"the manifest {folder / MANIFEST}, {problem.location}: {problem.message}")
    films = by_film(row for _, row in lines if is_kept(row) and row.get("captioned"))
    if not films:
        raise UserError(f"{folder} has no takes with captions; run python -m data_pipelines.curate")
    sides = sides_of(None, folder / LATENTS, films, config.seed)
    return {side: {n: of for n, of in films.items() if sides[n] == side} for side in SPLITS}


def classes_of(videos: Path) -> dict[str, str]:
    """{film or folder: class} of the folder's classes.json, {} without one; raises `UserError` for what is none."""
    path = videos / KNOWN
    if not path.exists():
        return {}
    content = read_json_object(path, "the classes")
    if not all(name in CLASSES for name in content.values()):
        raise UserError(f'the classes {path} must be {{"FILM or FOLDER/": "{" or ".join(CLASSES)}"}}')  # fmt: skip
    return content


def class_of(film: str, classes: Mapping[str, str]) -> str | int:
    """The class of a film as `terms` finds its terms; -1 for one that is not known."""
    found = terms(film, classes)
    return found if found in CLASSES else NOT_KNOWN


def take_videos(
    rows: Sequence[Row], side: int
) -> Iterator[tuple[Row, bytes, tuple[int, int, int]]]:
    """The takes of one film as mp4 files at the model's rate, with (frames, height, width); it is decoded once.

    Raises `UserError` for a film that has changed since.
    """
    takes = sorted(rows, key=lambda row: row["first"])
    spans = [range(row["first"], row["chunks"][-1]["stop"]) for row in takes]
    path, rate, film = takes[0]["path"], takes[0]["rate"], takes[0]["film"]
    frames = pick_frames(path, rate, (k for span in spans for k in span), film)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "take.mp4"
        for row, span in zip(takes, spans, strict=True):
            size: tuple[int, int] | None = None
            with VideoWriter(file, rate) as writer:
                for k in span:
                    number, shown = next(frames, (None, None))
                    if number != k or shown is None:
                        raise UserError(f"the film {film} ends before its takes: it was changed")
                    height, width = shown.size
                    size = size or even_size(height, width, side)
                    writer.write(fitted(shown, *size)[None])
            assert size is not None  # a take has frames
            yield row, file.read_bytes(), (len(span), *size)


def example(row: Row, video: bytes, size: tuple[int, int, int]) -> dict[str, Any]:
    """The row of the dataset for a take, without terms and class. The first caption covers the first frame too."""
    edges = [0.0, *((chunk["stop"] - row["first"]) / row["rate"] for chunk in row["chunks"])]
    frames, height, width = size
    return {
        "id": row["id"],
        "video": video,
        "suffix": ".mp4",
        "captions": [chunk["caption"] for chunk in row["chunks"]],
        "start": np.array(edges[:-1], np.float32),
        "stop": np.array(edges[1:], np.float32),
        "fps": row["rate"],
        "frames": frames,
        "height": height,
        "width": width,
        "film": row["film"],
        "film_start": row["first"] / row["rate"],
        "begins": row["begins"],
    }


def build(root: str | Path, config: LongTakesConfig) -> Path:
    """Writes both splits into ROOT/long_takes/NAME/VERSION unless they are there; returns it. Raises `UserError`."""
    made = LongTakes(data_dir=str(Path(root).absolute()), config=config, file_format="array_record")
    there = {name: split.num_examples for name, split in made.info.splits.items()}
    takes = {side: sum(map(len, of.values())) for side, of in split_takes(config).items()}
    if there and there != takes:
        raise UserError(
            f"{made.data_path} holds {there} takes, the folder has {takes}; delete it or use another `out`"
        )
    made.download_and_prepare(file_format="array_record")
    return Path(made.data_path)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and build; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.lvbench.long_takes",
        description="Writes what curate found into a tfds dataset (array_record).",
    )
    parser.add_argument("--folder", type=console.path, required=True, metavar="CURATED")
    parser.add_argument("--videos", type=console.path, metavar="FILMS", help="for their terms and classes")  # fmt: skip
    parser.add_argument("--out", type=console.path, default=Path("data/tfds"), metavar="DIR")
    parser.add_argument("--name", default="local", help="of the dataset, where there are several")
    parser.add_argument("--side", type=int, default=720, help="most pixels of the shorter side")
    parser.add_argument("--seed", type=int, default=0, help="of the split, unless it is stored")
    a = parser.parse_args(argv)

    def command() -> None:
        config = LongTakesConfig(
            name=a.name, folder=str(a.folder), videos=str(a.videos or ""), side=a.side, seed=a.seed
        )
        console.tell(str(build(a.out, config)))

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
