"""Makes the paper's Tables 2 to 7 over one small model, on storyworld:

python -m experiments.tables --table=5 --table=2 --quick
python -m experiments.tables --weights=runs/mini --out=runs/tables --docs=docs/tables.md

A budget is printed first; `--plan` stops there. Every fine-tune and every video of a row, story and seed is kept, so
that the same words go on where they were stopped, and larger numbers add to what there is. What comes of it is
OUT/tables.json, tables.html and tables.md; `--report` writes these anew from what there is.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path

from absl import flags, logging
from tqdm import tqdm

from bvjax import compilation, console
from bvjax.errors import UserError
from bvjax.files import write_atomic, write_json
from experiments.evaluation.judge import DEFAULT
from experiments.evaluation.under_test import UnderTest
from experiments.run_folder import make_writable
from experiments.tables import budget, markdown, page, report
from experiments.tables.rows import TABLES, Table, check_names, table_of
from experiments.tables.run import Work
from experiments.tables.settings import QUICK, Amounts
from experiments.tables.training import FineTunes, check_start

_TABLE = flags.DEFINE_multi_integer("table", list(TABLES), "Which tables, 2 to 7.")
_ROWS = flags.DEFINE_multi_string("row", [], "Only these rows, by their names.")
_QUICK = flags.DEFINE_bool(
    "quick", False, f"The rows that the paper has, and where no numbers are given {QUICK}."
)
_WEIGHTS = flags.DEFINE_string("weights", "bvjax/assets/mini", "Weights folder that rows share.")
_FEW_STEP = flags.DEFINE_string(
    "few-step", None, "A few-step DiT (.safetensors) that Table 6 begins with; else one is made."
)
_JUDGE = flags.DEFINE_string("judge", str(DEFAULT), "The trained judge.")
_OUT = flags.DEFINE_string("out", "runs/tables", "Folder of results, and of what they come to.")
_DOCS = flags.DEFINE_string("docs", None, "Write the tables here too, as Markdown.")
_SET = flags.DEFINE_multi_string("set", [], "Override of the shared model, e.g. guidance.scale=3.")
_PLAN = flags.DEFINE_bool("plan", False, "Print the budget and stop.")
_REPORT = flags.DEFINE_bool("report", False, "Write the report of what there is and stop.")
_MINUTES = flags.DEFINE_float(
    "tuning-minutes", budget.MOST_MINUTES, "The most that a leg of a fine-tune may take.", 0.0
)
_AMOUNTS = ("stories", "seeds", "chunks", "steps", "updates", "train-stories", "first-seed")


def _default(field: str) -> str:
    return f"(default {getattr(Amounts, field)})"


flags.DEFINE_integer("stories", None, f"Held-out stories of each row. {_default('stories')}")
flags.DEFINE_integer(
    "seeds", None, f"Videos of each story, and fine-tunes of each trained row. {_default('seeds')}"
)
flags.DEFINE_integer("chunks", None, f"Chunks of a story. {_default('chunks')}")
flags.DEFINE_integer("steps", None, f"Of the sampler; 0 = the model's. {_default('steps')}")
flags.DEFINE_integer("updates", None, f"Of a fine-tune; 0 = none are made. {_default('updates')}")
flags.DEFINE_integer(
    "train-stories", None, f"Stories that fine-tunes see. {_default('train_stories')}"
)
flags.DEFINE_integer("first-seed", None, f"First held-out story. {_default('first_seed')}")


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}")
    compilation.keep_programs()
    numbers, names = tuple(dict.fromkeys(_TABLE.value)), tuple(_ROWS.value)
    tables = [table_of(number) for number in numbers]
    check_names(numbers, names)
    work = _work()
    make_writable(work.out)
    if not _REPORT.value:
        todo = [table_of(number, names, quick=_QUICK.value) for number in numbers]
        for table in todo:
            work.arms(table)  # refuses what a policy cannot make
        print("\n".join(budget.text(work, todo)), flush=True)
        if _PLAN.value:
            return
        budget.check(work, todo, _MINUTES.value)
        with console.going_on(console.AGAIN):
            work.run(todo, lambda items, what: tqdm(items, desc=what, dynamic_ncols=True))
    write(work, tables)


def write(work: Work, tables: list[Table]) -> None:
    """Writes tables.json, the page and Markdown, and prints the first lines."""
    words = [word for word in sys.argv[1:] if not word.startswith("--report")]
    command = shlex.join(["python", "-m", "experiments.tables", *words])
    content = report.build(work, tables, command)
    write_json(work.out / "tables.json", content)
    lines = "\n".join(markdown.document(content)) + "\n"
    write_atomic(work.out / "tables.md", lines.encode())
    write_atomic(work.out / "tables.html", page.html(content).encode())
    if _DOCS.value:
        write_atomic(console.path(_DOCS.value), lines.encode())
    for entry in content["tables"]:
        print(f"Table {entry['number']}: {entry['first']} {entry['sentence']}")
    print(work.out / "tables.html")


def _work() -> Work:
    given = {
        name.replace("-", "_"): flags.FLAGS[name].value
        for name in _AMOUNTS
        if flags.FLAGS[name].value is not None
    }
    amounts = dataclasses.replace(QUICK if _QUICK.value else Amounts(), **given)
    judge, weights = console.path(_JUDGE.value), console.path(_WEIGHTS.value)
    if not judge.is_file():
        raise UserError(
            f"there is no judge {judge}; train one with python -m experiments.evaluation.train_judge"
        )
    few_step = None if _FEW_STEP.value is None else Path(_FEW_STEP.value)
    check_start(few_step, weights)
    tested = UnderTest.load(weights, tuple(_SET.value))
    tested.need("dit", "vae", "text")
    out = console.path(_OUT.value)
    return Work(tested, judge, out, amounts, FineTunes(weights, out, amounts, few_step))


if __name__ == "__main__":
    console.run_flags(main)
