"""Do the paper's two stages fit?  Their configs, compiled ahead of time for machines that are not here.

.venv-aot/bin/python -m experiments.plan_pods --out runs/plan_pods [--only NAME ...] [--docs docs/pods.md]

Each program is compiled in a process of its own, which takes some minutes and gigabytes, and its numbers are a file in
`--out`; what is there already is not compiled again.  `make setup-aot` installs the compilers.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import math
import pathlib
import subprocess
import sys
from typing import Any

from bvjax import console
from bvjax.errors import UserError
from bvjax.files import read_json, write_atomic, write_json
from bvjax.overrides import apply_overrides

MARK = ("<!-- plans begin -->\n", "<!-- plans end -->\n")  # what --docs writes between


@dataclasses.dataclass(frozen=True)
class Case:
    """A config on a machine."""

    config: str  # a module of experiments.configs
    topology: str
    mesh: str
    overrides: tuple[str, ...] = ()  # of the model


def _cases() -> dict[str, Case]:
    machines = {
        "h100": ("blockvid", "h100:4x8", "data=4,fsdp=8"),
        "v5p": ("blockvid", "v5p:4x4x4", "data=8,fsdp=8"),
        "v5p-14b": ("blockvid_14b", "v5p:4x8x8", "data=8,fsdp=8,tensor=4"),
    }
    cases = {}
    for machine, (family, topology, mesh) in machines.items():
        for stage in ("stage1", "stage2"):
            # Rollouts live on: 8 of them in each replica are more than 80 GB hold in 16 bits.
            small = ("memory.dtype=int8",) if (stage, machine) == ("stage2", "h100") else ()
            cases[f"{stage}-{machine}"] = Case(f"{family}_{stage}", topology, mesh, small)
    return cases


CASES = _cases()


def plan(case: Case, layers: int = 0) -> dict[str, Any]:
    """Compiles the step of a case in this process.

    Args:
        layers: of the network, where they are fewer than the model's: for a first look.
    """
    from bvjax.nets.discriminator import default_taps
    from bvjax.plan import self_forcing, training_report
    from bvjax.plan.topology import topology_devices
    from bvjax.sharding import parse_mesh

    experiment = importlib.import_module(f"experiments.configs.{case.config}").experiment()
    overrides = [*case.overrides, *([f"dit.num_layers={layers}"] if layers else [])]
    model = apply_overrides(experiment.model, overrides)
    chip, devices = topology_devices(case.topology)
    arguments = (model, case.topology, chip, devices, parse_mesh(case.mesh), 1.0)
    batch, say = experiment.train.global_batch_size, lambda text: console.say(f"{text} ...")
    if experiment.task == "self_forcing":
        critic = experiment.discriminator
        if layers:
            critic = dataclasses.replace(critic, taps=default_taps(layers))
        recipe = self_forcing.Recipe(
            settings=experiment.self_forcing,
            adversarial=experiment.adversarial,
            levels=experiment.critic_levels,
            critic=critic,
            forcing=experiment.draw,
        )
        made = self_forcing.make_plan(*arguments, batch, say, recipe=recipe)
        report: Any = self_forcing
    else:
        made = training_report.make_plan(*arguments, batch, say, forcing=experiment.draw)
        report = training_report
    print("\n".join(report.lines(made)))
    return report.as_json(made)


def row(name: str, case: Case, found: dict[str, Any]) -> str:
    """A line of the table: machine, mesh, and the memory at the peak."""
    gigabytes = lambda size: f"{size / 1e9:.1f}"
    memory, needed = found["chip"]["memory"], found["needed"]
    state = sum(size for part, size in found["parts"].items() if part != "temporaries")
    if needed is None:
        peak, share = "not known", "does not fit"
    else:
        peak, share = gigabytes(needed), f"{needed / memory:.0%}"
    chips = math.prod(found["mesh"].values())
    kind = f"{chips} x {found['chip']['name']} ({case.topology})"
    changed = f"; {', '.join(case.overrides)}" if case.overrides else ""
    temporaries = found["parts"].get("temporaries")
    temporary = "" if temporaries is None else gigabytes(temporaries)
    return (
        f"| `{case.config}`{changed} | {kind} | {case.mesh} | {gigabytes(state)} | {temporary} | "
        f"{peak} of {gigabytes(memory)} | {share} |"
    )


def table(out: pathlib.Path) -> str:
    """All cases that have been compiled."""
    lines = [
        "| config | machine | mesh | state, GB | temporaries, GB | peak of a device, GB | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        file = out / f"{name}.json"
        if file.exists():
            lines.append(row(name, case, read_json(file)))
    return "\n".join(lines) + "\n"


def write_docs(docs: pathlib.Path, text: str) -> None:
    """Replaces the table in a document; raises `UserError` where it has no place for it."""
    whole = docs.read_text(encoding="utf-8")
    if any(whole.count(mark) != 1 for mark in MARK):
        raise UserError(f"{docs} has no lines {MARK[0].strip()} and {MARK[1].strip()}")
    before, rest = whole.split(MARK[0])
    _, after = rest.split(MARK[1])
    write_atomic(docs, f"{before}{MARK[0]}{text}{MARK[1]}{after}".encode())


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, help="folder of the numbers")
    add(
        "--only",
        nargs="+",
        choices=[*CASES],
        default=[*CASES],
        metavar="NAME",
        help=", ".join(CASES),
    )
    add("--docs", type=pathlib.Path, help="write the table into this document")
    add("--layers", type=int, default=0, help="fewer layers, for a first look; nothing is kept")
    add("--here", action="store_true", help=argparse.SUPPRESS)  # compile in this process
    args = parser.parse_args(words)
    for name in args.only:
        file = args.out / f"{name}.json"
        if args.here or args.layers:
            found = plan(CASES[name], args.layers)
            if not args.layers:
                args.out.mkdir(parents=True, exist_ok=True)
                write_json(file, found)
        elif not file.exists():
            own = ["--out", str(args.out), "--only", name, "--here"]
            done = subprocess.run(
                [sys.executable, "-m", "experiments.plan_pods", *own], check=False
            )
            if done.returncode:
                print(f"{name}: failed", file=sys.stderr)
    print(table(args.out))
    if args.docs:
        write_docs(args.docs, table(args.out))


if __name__ == "__main__":
    sys.exit(console.run(main))
