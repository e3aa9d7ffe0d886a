"""Pictures read by eyes: a sheet without words, and answers counted against what it was to show.

    python -m experiments.evaluation.reading --weights=runs/mini --out=runs/reading --count=64
    python -m experiments.evaluation.reading --out=runs/reading --answers=answers.csv --reader="a person who ..."

The first command writes numbered sheets and key.json. Whoever reads sees the sheets and the lists of names alone. An
answer is a line `number,species,colour`; "cannot tell" counts as wrong. The second writes reading.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import flags, logging

from bvjax import console
from bvjax.errors import UserError
from bvjax.files import read_json, read_text, write_atomic
from data_pipelines.storyworld import COLOURS, SPECIES
from experiments.evaluation.pictures import answers, asked, generate
from experiments.evaluation.sheets import count_answers, sheets
from experiments.evaluation.under_test import UnderTest

_WEIGHTS = flags.DEFINE_string(
    "weights", "bvjax/assets/mini", "Weights folder whose pictures are read."
)
_OUT = flags.DEFINE_string("out", "runs/reading", "Folder of the sheets.")
_COUNT = flags.DEFINE_integer("count", 64, "Pictures.", lower_bound=1)
_FIRST = flags.DEFINE_integer("first_seed", 2000, "First held-out panorama.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise.", lower_bound=0)
_SET = flags.DEFINE_multi_string("set", [], "Override of the model, e.g. sampler.steps=10.")
_ANSWERS = flags.DEFINE_string("answers", None, "File of answers to count.")
_READER = flags.DEFINE_string("reader", None, "Who read: a person or a model, and what they knew.")


def draw_sheets(out: Path) -> None:
    """Writes the sheets and their key; unselected: the first panoramas that have a subject alone."""
    tested = UnderTest.load(_WEIGHTS.value, tuple(_SET.value))
    items, index = [], _FIRST.value
    while len(items) < _COUNT.value:
        item = asked(index, tested)
        items += [] if item is None else [item]
        index += 1
    frames = generate(tested, items, _SEED.value)
    out.mkdir(parents=True, exist_ok=True)
    for number, page in enumerate(sheets(frames), 1):
        page.save(out / f"sheet_{number}.png")
    made = {
        "command": " ".join(["python -m experiments.evaluation.reading", *sys.argv[1:]]),
        "weights": tested.sha256,
        "key": answers(items),
    }
    write_atomic(out / "key.json", json.dumps(made, indent=1).encode())
    print(f"wrote {out}: species {', '.join(SPECIES)}; colours {', '.join(COLOURS)}")


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}")
    out = console.path(_OUT.value)
    if _ANSWERS.value is None:
        draw_sheets(out)
        return
    if not _READER.value:
        raise UserError("--reader says who read the sheets: a person or a model")
    text = read_text(Path(_ANSWERS.value))
    counted = count_answers(read_json(out / "key.json")["key"], text)
    result = counted | {"reader": _READER.value, "answers": text}
    write_atomic(out / "reading.json", json.dumps(result, indent=1).encode())
    for head, entry in counted.items():
        print(f"{head:8s} {100 * entry['rate']:5.1f} %  (n = {entry['n']})")


if __name__ == "__main__":
    console.run_flags(main)
