"""storyworld as a tfds dataset in array_record files, pixels and exact ground truth side by side:

    python -m data_pipelines.storyworld.builder --out data/tfds --stories 240 --heldout 32

Neither writing nor reading it needs TensorFlow.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import multiprocessing
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from bvjax import console
from bvjax.array_files import first_line
from bvjax.errors import UserError
from bvjax.files import read_json_object
from data_pipelines.storyworld.example import story_example, story_features
from data_pipelines.storyworld.plan import SPLITS
from data_pipelines.storyworld.world import MOST_STORIES, check_number, check_size

VERSION = "1.0.0"  # raise it when the renderer or the features change


@dataclasses.dataclass(kw_only=True)
class StoryworldConfig(tfds.core.BuilderConfig):
    """Size of the pictures, and how many stories each split has: the seeds 0, 1, ... of the split."""

    name: str = dataclasses.field(init=False, default="")
    height: int = 64
    width: int = 64
    fps: int = 8
    stories: int = 240
    heldout: int = 32
    workers: int = 1  # processes that render

    def __post_init__(self):
        check_size(self.height, self.width, self.fps)
        for name in ("stories", "heldout", "workers"):
            check_number(name, getattr(self, name), 1, MOST_STORIES)
        self.name = f"{self.height}x{self.width}-{self.fps}fps"


class Storyworld(tfds.core.GeneratorBasedBuilder):
    """Item i of a split is the story with the seed i."""

    VERSION = tfds.core.Version(VERSION)
    # tfds 4.9 would look for this file by importlib_resources, which it does not install.
    code_path = Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            description="Minute-long single takes with captions and exact ground truth.",
            features=story_features(config.height, config.width, config.fps),
            disable_shuffling=True,  # readers shuffle; the order of seeds is worth keeping
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        config = self.builder_config
        counts = zip(SPLITS, (config.stories, config.heldout), strict=True)
        return {split: self._generate_examples(split, count) for split, count in counts}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        example = functools.partial(
            story_example, split=split, height=config.height, width=config.width, fps=config.fps
        )
        if config.workers == 1:
            yield from enumerate(map(example, range(count)))
            return
        with multiprocessing.get_context("spawn").Pool(min(config.workers, count)) as pool:
            yield from enumerate(pool.imap(example, range(count)))


def build(root: str | Path, config: StoryworldConfig) -> Path:
    """Writes both splits into ROOT/storyworld/64x64-8fps/1.0.0 unless they are there; returns it.

    tfds renames the finished folder into place, so half a dataset is never found.

    Raises:
        UserError: the folder holds other numbers of stories.
    """
    builder = Storyworld(
        data_dir=str(Path(root).absolute()), config=config, file_format="array_record"
    )
    stored_counts = {name: split.num_examples for name, split in builder.info.splits.items()}
    expected_counts = dict(zip(SPLITS, (config.stories, config.heldout), strict=True))
    if stored_counts and stored_counts != expected_counts:
        raise UserError(
            f"{builder.data_path} holds {_counts(stored_counts)} stories, {_counts(expected_counts)} are wanted; "
            "delete it or use another `out`"
        )
    builder.download_and_prepare(file_format="array_record")
    return Path(builder.data_path)


class StorySplit(Sequence):
    """The stories of a split by index; raises `UserError` with one sentence for a damaged row.

    `dataset_info` has the features.
    """

    def __init__(self, source: Any, folder: Path):
        self._source, self._folder = source, folder
        self.dataset_info = source.dataset_info

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index):
        try:
            return self._source[index]
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"story {index} in {self._folder} is damaged: {first_line(error)}; "
                "delete the folder and build it again"
            ) from None


def storyworld_source(data_dir: str | Path, split: str) -> StorySplit:
    """Random access to the stories of a split; `data_dir` is the --out of the builder.

    Text comes back as bytes.

    Raises:
        UserError: there is no dataset, more than one, no such split, or a file is missing or cut.
    """
    root = Path(data_dir)
    folders = sorted(p.parent for p in root.glob(f"storyworld/*/{VERSION}/dataset_info.json"))
    if (root / "dataset_info.json").exists():
        folders = [root]
    if not folders:
        raise UserError(
            f"{root} holds no storyworld dataset of version {VERSION}; make it with "
            f"python -m data_pipelines.storyworld.builder --out {shlex.quote(str(root))}"
        )
    if len(folders) > 1:
        raise UserError(f"{root} holds several datasets; name one: {', '.join(map(str, folders))}")
    return _open_split(folders[0], split)


def _open_split(folder: Path, split: str) -> StorySplit:
    """Opens a split of the dataset in `folder`; raises `UserError` for any other content."""
    metadata = read_json_object(folder / "dataset_info.json")
    name, version = metadata.get("name"), metadata.get("version")
    if (name, version) != (Storyworld.name, VERSION):
        raise UserError(
            f"{folder} holds the dataset {name!r} {version}, not {Storyworld.name} {VERSION}"
        )
    try:
        builder = tfds.builder_from_directory(folder)
        splits = list(builder.info.splits)
        source = builder.as_data_source(split) if split in splits else None
        if source is not None:
            end_rows = [
                source[end] for end in {0, len(source) - 1}
            ]  # files are opened only when read
            fields = {name for row in end_rows for name in row}
            expected_fields = set(story_features(16, 16, 1))
            if fields != expected_fields:
                raise ValueError(
                    f"its rows have {', '.join(sorted(fields ^ expected_fields))} or lack it"
                )
    except Exception as error:  # tfds and array_record raise whatever a damaged file led them to
        raise UserError(
            f"{folder} is damaged: {first_line(error)}; delete it and build it again"
        ) from None
    if source is None:
        raise UserError(f"{folder} has no split {split!r}, only {', '.join(splits)}")
    return StorySplit(source, folder)


def _counts(splits: dict[str, int]) -> str:
    return " + ".join(f"{count} {name}" for name, count in splits.items())


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and build; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.storyworld.builder",
        description="Renders storyworld into a tfds dataset (array_record).",
    )
    parser.add_argument("--out", type=console.path, default=Path("data/tfds"), metavar="DIR")
    parser.add_argument("--stories", type=int, default=240, help="of the train split")
    parser.add_argument("--heldout", type=int, default=32, help="of the heldout split")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--fps", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    args = parser.parse_args(argv)

    def command() -> None:
        config = StoryworldConfig(
            height=args.size,
            width=args.size,
            fps=args.fps,
            stories=args.stories,
            heldout=args.heldout,
            workers=args.workers,
        )
        print(build(args.out, config))

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
