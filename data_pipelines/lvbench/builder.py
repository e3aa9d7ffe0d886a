"""A local copy of LV-Bench as a tfds dataset in array_record files.

The set itself has not been released, so nothing is downloaded: bring your own copy, or your own
videos in its form (`bvjax.lvbench.dataset` says which), look at what is wrong with it, and build:

    python -m bvjax validate LVBENCH
    python -m data_pipelines.lvbench.builder --folder LVBENCH --out data/tfds

The splits are those of LVBENCH/split.json, which is written (8:2, --seed) unless it is there: put
the published lists there first if you have them. Videos stay encoded as they are, so the data set
is as large as the folder. Neither writing nor reading it needs TensorFlow. Reading:

    source = lvbench_source("data/tfds", "train")   # rows as below, text as bytes
    chunks = Chunks(source)                         # frames of one caption each; see `chunks`
    grain.MapDataset.source(chunks).shuffle(seed=0)
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from bvjax import console
from bvjax.errors import UserError
from bvjax.lvbench.dataset.checks import CLASSES
from bvjax.lvbench.dataset.examine import SHORTEST, ExaminationResult, Record, examine, lines, read
from bvjax.lvbench.dataset.split import SPLITS, stored_split
from bvjax.lvbench.video import Video

VERSION = "1.0.0"  # raise it when the features change


@dataclasses.dataclass(kw_only=True)
class LVBenchConfig(tfds.core.BuilderConfig):
    """The folder of the copy. shortest: minimum seconds of its videos. seed: of a split to draw."""

    name: str = "local"
    folder: str = ""
    shortest: float = SHORTEST
    seed: int = 0

    def __post_init__(self):
        if not re.fullmatch(r"[\w-]+", self.name):
            raise UserError(f"the name {self.name!r} is not of letters, digits, - and _ alone")


def features() -> tfds.features.FeaturesDict:
    """video: the file's bytes. start, stop: seconds of each caption, [start, stop)."""
    text = tfds.features.Text()
    seconds = tfds.features.Tensor(shape=(None,), dtype=np.float32, encoding="bytes")
    return tfds.features.FeaturesDict(
        {
            "id": text,
            "video": tfds.features.Tensor(shape=(), dtype=np.object_),
            "suffix": text,
            "captions": tfds.features.Sequence(text),
            "start": seconds,
            "stop": seconds,
            "class": tfds.features.ClassLabel(names=list(CLASSES)),  # -1: not known
            "fps": np.float32,
            "frames": np.int32,
            "height": np.int32,
            "width": np.int32,
        }
    )


class LVBench(tfds.core.GeneratorBasedBuilder):
    """Item i of a split is the i-th name of its list."""

    VERSION = tfds.core.Version(VERSION)
    # tfds 4.9 would look for this file by importlib_resources, which it does not install.
    code_path = Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Long videos with captions that cover them second by second.",
            features=features(),
            disable_shuffling=True,  # readers shuffle
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        config = self.builder_config
        examination = check(config)
        records = {record.name: record for record in read(Path(config.folder))}
        return {
            side: self._generate_examples(names, records, examination.videos)
            for side, names in stored_split(Path(config.folder), config.seed).items()
        }

    def _generate_examples(
        self, names: Sequence[str], records: Mapping[str, Record], videos: Mapping[str, Video]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, name in enumerate(names):
            yield i, example(records[name], videos[name])


# {dataset with these features: the command that makes it}
DATASETS = {
    LVBench.name: "data_pipelines.lvbench.builder --folder LVBENCH",
    "long_takes": "data_pipelines.lvbench.long_takes --folder CURATED",
}


def check(config: LVBenchConfig) -> ExaminationResult:
    """Decodes the whole folder once; raises `UserError` that lists all that is wrong with it."""
    progress_bar = functools.partial(tqdm, desc="checking", unit="video", disable=None)
    examination = examine(Path(config.folder), config.shortest, progress_bar)
    if examination.problems:
        raise UserError("\n".join(["the folder cannot be built:", *lines(examination.problems)]))
    return examination


def example(record: Record, video: Video) -> dict[str, Any]:
    """Returns the row of a video."""
    start, stop = np.array(record.story.spans, np.float32).T
    return {
        "id": record.name,
        "video": record.video.read_bytes(),
        "suffix": record.video.suffix,
        "captions": list(record.story.captions),
        "start": start,
        "stop": stop,
        "class": record.object_class or -1,
        "fps": video.fps,
        "frames": video.frames,
        "height": video.height,
        "width": video.width,
    }


def build(root: str | Path, config: LVBenchConfig) -> Path:
    """Writes both splits into ROOT/lv_bench/NAME/VERSION unless they are there; returns it.

    tfds renames the finished folder into place, so half a dataset is never found.

    Raises:
        UserError: something is wrong with the folder, or another number of videos is there.
    """
    builder = LVBench(
        data_dir=str(Path(root).absolute()), config=config, file_format="array_record"
    )
    stored_counts = {name: split.num_examples for name, split in builder.info.splits.items()}
    if stored_counts:
        expected_counts = {
            side: len(names)
            for side, names in stored_split(Path(config.folder), config.seed).items()
        }
        if stored_counts != expected_counts:
            raise UserError(
                f"{builder.data_path} holds {stored_counts} videos, the folder has {expected_counts}; "
                "delete it or use another `out`"
            )
    builder.download_and_prepare(file_format="array_record")
    return Path(builder.data_path)


def lvbench_source(
    data_dir: str | Path, split: str, name: str = "local", dataset: str = LVBench.name
) -> Sequence[dict[str, Any]]:
    """Random access to the rows of a split; `data_dir` is the --out of the builder, name its --name.

    `dataset` is one of `DATASETS`.

    Raises:
        UserError: no such dataset or split.
    """
    folder = Path(data_dir) / dataset / name / VERSION
    if not (folder / "dataset_info.json").is_file():
        raise UserError(
            f"there is no {folder}; make it with "
            f"python -m {DATASETS[dataset]} --out {shlex.quote(str(data_dir))}"
        )
    if split not in SPLITS:
        raise UserError(f"the splits are {' and '.join(SPLITS)}, not {split!r}")
    return tfds.builder_from_directory(folder).as_data_source(split)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and build; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.lvbench.builder",
        description="Writes a local copy of LV-Bench into a tfds dataset (array_record).",
    )
    parser.add_argument("--folder", type=console.path, required=True, metavar="LVBENCH")
    parser.add_argument("--out", type=console.path, default=Path("data/tfds"), metavar="DIR")
    parser.add_argument("--name", default="local", help="of the dataset, where there are several")
    parser.add_argument("--seed", type=int, default=0, help="of the split, unless it is stored")
    parser.add_argument(
        "--shortest",
        type=float,
        default=SHORTEST,
        metavar="SECONDS",
        help=f"shorter videos are refused (default {SHORTEST:g})",
    )
    args = parser.parse_args(argv)

    def command() -> None:
        config = LVBenchConfig(
            name=args.name, folder=str(args.folder), shortest=args.shortest, seed=args.seed
        )
        print(build(args.out, config))

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
