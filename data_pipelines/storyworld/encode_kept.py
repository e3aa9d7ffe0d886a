"""Makes examples of storyworld ahead of the training that asks for them:

    python -m data_pipelines.storyworld.encode_kept --kind=pictures --weights=runs/mini --out=data/pictures --count=4000
    python -m data_pipelines.storyworld.encode_kept --kind=returns --weights=runs/mini --out=data/returns --count=1500

It can be killed and run again, by several processes, and while a training reads the folder.
"""

from __future__ import annotations

from absl import flags
from tqdm import tqdm

from bvjax import console
from bvjax.errors import UserError
from data_pipelines.storyworld.pictures import open_pictures
from data_pipelines.storyworld.plan import SPLITS
from data_pipelines.storyworld.returns import open_returns
from data_pipelines.storyworld.world import MOST_STORIES

KINDS = {"pictures": open_pictures, "returns": open_returns}

_KIND = flags.DEFINE_enum("kind", "pictures", sorted(KINDS), "What an example is.")
_WEIGHTS = flags.DEFINE_string("weights", "runs/mini", "Weights folder with vae and text.")
_OUT = flags.DEFINE_string("out", "data/pictures", "Folder of the examples.")
_COUNT = flags.DEFINE_integer("count", 1000, "How many: FIRST, FIRST+1, ...", 1, MOST_STORIES)
_FIRST = flags.DEFINE_integer("first", 0, "The first.", 0, MOST_STORIES)
_SPLIT = flags.DEFINE_enum("split", "train", SPLITS, "Which split to draw them from.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}")
    weights, root = console.path(_WEIGHTS.value), console.path(_OUT.value)
    source = KINDS[_KIND.value](weights, root, _SPLIT.value)
    with console.going_on(console.AGAIN):
        for index in tqdm(
            source.missing(range(_FIRST.value, _FIRST.value + _COUNT.value)), disable=None
        ):
            if source.missing([index]):  # another process may have made it meanwhile
                source.write(index)


if __name__ == "__main__":
    console.run_flags(main)
