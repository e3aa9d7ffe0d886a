"""The whole chain that makes `mini`, from nothing to weights, one command after the other:

python -m experiments.train_mini --root=runs/train_mini

Stop it when you like; the same words go on where it stopped. `--plan` shows the commands and stops. After each part its
milestone is checked: a chain that misses one goes on and says so, since what to try next is for people to decide.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from bvjax import console
from bvjax.errors import UserError, WorkError
from bvjax.files import read_json_object, write_atomic

_ROOT = flags.DEFINE_string("root", "runs/train_mini", "Folder of runs, data and weights.")
_PLAN = flags.DEFINE_bool("plan", False, "Show the commands and stop.")

# Without these, glibc gives the memory of every step back to the system and asks for it again.
ALLOCATOR = ":".join(
    f"glibc.malloc.{name}={size}"
    for name, size in (
        ("mmap_threshold", 2**30),
        ("trim_threshold", 2**30),
        ("top_pad", 2**28),
    )
)


@dataclasses.dataclass(frozen=True)
class Milestone:
    """A figure of a results file of `experiments.evaluate` and what it should reach."""

    results: Path
    part: str
    path: tuple[str, ...]  # keys in the part's result
    least: float

    def sentence(self) -> str:
        """How the figure stands to its aim."""
        figure: Any = read_json_object(self.results)[self.part]["result"]
        for key in self.path:
            figure = figure[key]
        word = "reached" if figure >= self.least else "MISSED"
        return f"milestone {word}: {self.part} {' '.join(self.path)} is {figure:.3f}, aim {self.least:g}"


@dataclasses.dataclass(frozen=True)
class Step:
    """A command of the chain; `hours` is what it took on two CPU cores."""

    name: str
    hours: float
    words: tuple[str, ...]  # after `python -m`
    milestone: Milestone | None = None


def steps(root: Path) -> list[Step]:
    """The chain; everything that it writes is in `root`."""
    weights, data = root / "mini", root / "data"

    def train(config: str, *words: str) -> tuple[str, ...]:
        return (
            "experiments.train",
            f"--config=experiments/configs/{config}.py",
            f"--workdir={root / config}",
            f"--weights={weights}",
            *words,
        )

    def judge(net: str) -> tuple[str, ...]:
        words = f"--net={net}", f"--weights={weights}", f"--out={root / f'judge_{net}.safetensors'}"
        return "experiments.evaluation.train_judge", *words

    def evaluate(what: str, *words: str) -> tuple[str, ...]:
        return (
            "experiments.evaluate",
            f"--weights={weights}",
            f"--what={what}",
            f"--judge={root / 'judge_attention.safetensors'}",
            f"--out={root / 'evaluation.json'}",
            f"--cache={data / 'evaluation'}",
            *words,
        )

    def aim(part: str, least: float, *path: str) -> Milestone:
        return Milestone(root / "evaluation.json", part, path, least)

    encoded = f"--config.data.weights={weights}", f"--config.data.pictures={data / 'pictures'}"
    returns = f"--config.data.latents={data / 'returns'}", f"--init-from={weights}"
    return [
        Step(
            "text encoder",
            0.2,
            train(
                "mini_text",
                "--config.model.text.max_length=40",
                f"--config.data.tokenizer_dir={data / 'text'}",
            ),
        ),
        Step("VAE", 2.5, train("mini_vae_next")),
        Step(
            "reconstruction",
            0.2,
            evaluate("reconstruction"),
            aim("reconstruction", 26.0, "psnr", "mean"),
        ),
        Step("judge", 0.3, judge("conv")),
        Step("second judge", 0.3, judge("attention")),
        Step("pictures", 1.7, train("mini_pictures", *encoded)),
        Step("words", 0.1, evaluate("pictures"), aim("pictures", 0.8, "species", "rate")),
        Step("memory", 2.5, train("mini_returns", *encoded, *returns)),
        Step("captions", 0.2, evaluate("captions"), aim("captions", 0.8, "species", "rate")),
        Step(
            "returns",
            0.5,
            evaluate("memory", "--arms=semantic,rolling", "--anchor=on"),
            aim("memory", 0.8, "arms", "semantic", "subject", "recall", "all", "rate"),
        ),
    ]


def run(root: Path, chain: list[Step]) -> None:
    """Runs what is not done; raises `WorkError` when a command fails."""
    done = root / "done"
    left = [step for step in chain if not (done / step.name).exists()]
    print(f"{len(left)} of {len(chain)} steps to do, about {sum(s.hours for s in left):.1f} hours")
    environment = {"GLIBC_TUNABLES": ALLOCATOR, **os.environ}
    for step in left:
        command = [sys.executable, "-m", *step.words]
        print(f"== {step.name} (about {step.hours:g} h): {shlex.join(command)}", flush=True)
        started = time.monotonic()
        code = subprocess.run(command, env=environment, check=False).returncode
        if code:
            raise WorkError(f"{step.name} ended with exit code {code}; {console.AGAIN}")
        minutes = (time.monotonic() - started) / 60
        words = f"{step.name}: {minutes:.1f} minutes"
        if step.milestone is not None:
            words += f"; {step.milestone.sentence()}"
        print(words, flush=True)
        done.mkdir(parents=True, exist_ok=True)
        write_atomic(done / step.name, f"{words}\n".encode())
    print(f"done: {root / 'mini'}")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}")
    root = console.path(_ROOT.value)
    chain = steps(root)
    if _PLAN.value:
        for step in chain:
            print(f"{step.hours:4.1f} h  python -m {shlex.join(step.words)}")
        return
    run(root, chain)


if __name__ == "__main__":
    console.run_flags(main)
