"""Averages a part of two weights folders: what training forgot comes back, what it learnt stays.

Weights from before and after a training that started there lie in one basin, and a point between
them is often better than both ends, at what each of them is good at (Wortsman et al. 2022, "Robust
fine-tuning of zero-shot models").

    python -m experiments.average --before=runs/frames --after=runs/mini --share=0.75 --out=runs/mini
"""

from __future__ import annotations

import sys

from absl import flags

from bvjax import console
from bvjax.errors import UserError
from bvjax.weights import DTYPES, PARTS
from experiments.averaging import average

_BEFORE = flags.DEFINE_string("before", None, "Weights folder.", required=True)
_AFTER = flags.DEFINE_string(
    "after", None, "Weights folder; its configuration is kept.", required=True
)
_SHARE = flags.DEFINE_float("share", 0.75, "Share of --after.", lower_bound=0, upper_bound=1)
_OUT = flags.DEFINE_string("out", None, "Weights folder that gets the part.", required=True)
_PART = flags.DEFINE_enum("part", "dit", PARTS, "What is averaged.")
_DTYPE = flags.DEFINE_enum("dtype", "float16", DTYPES, "Of the file.")
_SET = flags.DEFINE_multi_string("set", [], "section.key=value of the configuration.")


def main(argv: list[str]) -> int:
    try:
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]!r}")
        average(
            _BEFORE.value,
            _AFTER.value,
            _SHARE.value,
            _OUT.value,
            _PART.value,
            _DTYPE.value,
            _SET.value,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    console.run_flags(main)
