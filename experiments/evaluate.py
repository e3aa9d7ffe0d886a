"""Measures a model on held-out stories, by ground truth:

python -m experiments.evaluate --weights=bvjax/assets/mini --what=memory --out=runs/evaluation.json
python -m experiments.evaluate --table=runs/evaluation.json

Results are written as they come; start it again with the same words to go on, or with larger
numbers to add to what there is.  The parts: reconstruction, judge, captions, memory (return chunks
after a true history), minutes (whole self-generated videos), drift.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from absl import flags, logging

from bvjax import compilation, console
from bvjax.errors import UserError
from experiments.evaluation.judge import DEFAULT
from experiments.evaluation.memory import ARMS
from experiments.evaluation.minutes import ARMS as ALL_ARMS
from experiments.evaluation.minutes import POLICY_ARMS
from experiments.evaluation.parts import PARTS, Amounts, Evaluation
from experiments.evaluation.results import Results
from experiments.evaluation.table import table
from experiments.evaluation.under_test import UnderTest
from experiments.run_folder import make_writable

_WEIGHTS = flags.DEFINE_string("weights", "bvjax/assets/mini", "Weights folder to measure.")
_WHAT = flags.DEFINE_list("what", list(PARTS), "Which parts.")
_OUT = flags.DEFINE_string("out", "runs/evaluation.json", "Results; records go beside it.")
_TABLE = flags.DEFINE_string("table", None, "Print this results file as markdown, and stop.")
_STORIES = flags.DEFINE_integer(
    "stories",
    Amounts.stories,
    "For captions and judge; an eighth for reconstruction.",
    lower_bound=1,
)
_CASES = flags.DEFINE_integer("cases", Amounts.cases, "Returning subjects per arm.", lower_bound=1)
_MINUTES = flags.DEFINE_integer("minutes", Amounts.minutes, "Minutes per arm.", lower_bound=1)
_ARMS = flags.DEFINE_list(
    "arms",
    list(ALL_ARMS),
    "Arms of memory, minutes and drift (full is of drift only); "
    "policy:NAME, of minutes and drift, is another policy of generation.",
)
_ANCHORS = flags.DEFINE_multi_enum(
    "anchor", ["on", "off"], ["on", "off"], "Arms of memory with the anchor, and without."
)
_JUDGE = flags.DEFINE_string("judge", str(DEFAULT), "The trained judge.")
_CACHE = flags.DEFINE_string("cache", "data/latents", 'Folder of encoded stories; "" keeps none.')
_FIRST = flags.DEFINE_integer("first_seed", 1000, "First held-out story.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise; each story adds its own.", lower_bound=0)
_BATCH = flags.DEFINE_integer("batch", 8, "Return chunks generated together.", lower_bound=1)
_SET = flags.DEFINE_multi_string("set", [], "Override of the model, e.g. sampler.steps=10.")


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)  # JAX tells which backends it does not find
    try:
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]!r}")
        if _TABLE.value is not None:
            if not Path(_TABLE.value).is_file():
                raise UserError(f"there is no results file {_TABLE.value}")
            try:
                print(table(Results(_TABLE.value).parts))
            except UserError as error:
                raise UserError(f"{_TABLE.value}: {error}") from None
            return 0
        compilation.keep_programs()
        evaluate()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate() -> None:
    """Runs the parts that the flags ask for and prints their tables."""
    if not Path(_JUDGE.value).is_file() and _WHAT.value != ["reconstruction"]:
        raise UserError(
            f"there is no judge {_JUDGE.value}; train one with "
            "python -m experiments.evaluation.train_judge"
        )
    overrides, kinds = tuple(_SET.value), tuple(_ARMS.value)
    for kind in kinds:
        if kind not in (*ALL_ARMS, *POLICY_ARMS):
            arms = ", ".join((*ALL_ARMS, *POLICY_ARMS))
            raise UserError(f"there is no arm {kind!r}; the arms are {arms}")
    arms = [arm for arm in ARMS.values() if arm.kind in kinds]
    make_writable(console.path(_OUT.value).parent)  # now, and not after the first hour
    evaluation = Evaluation(
        tested=UnderTest.load(_WEIGHTS.value, overrides),
        judge_file=Path(_JUDGE.value),
        results=Results(_OUT.value),
        cache=Path(_CACHE.value) if _CACHE.value else None,
        amounts=Amounts(_STORIES.value, _CASES.value, _MINUTES.value),
        first_seed=_FIRST.value,
        seed=_SEED.value,
        batch=_BATCH.value,
        arms=tuple(arm for arm in arms if arm.anchor_setting in _ANCHORS.value),
        kinds=kinds,
        overrides=overrides,
        command=shlex.join(["python", "-m", "experiments.evaluate", *sys.argv[1:]]),
    )
    for part in _WHAT.value:
        with console.going_on(console.AGAIN):
            evaluation.run(part)
        print(table({part: evaluation.results.parts[part]}))


if __name__ == "__main__":
    console.run_flags(main)
