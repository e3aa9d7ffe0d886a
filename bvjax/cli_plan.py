"""The command line's `plan`: what a configuration costs on a machine that is not here."""

# JAX is imported inside the command: --help and most refusals should not wait for it.
from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

from bvjax import console
from bvjax.errors import UserError
from bvjax.presets import PRESETS


def register(commands, mesh_option: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds the command; `mesh_option` adds the one that other commands have too."""
    plan = commands.add_parser(
        "plan",
        help="what a configuration costs on a machine that is not here",
        description="Compile the programs of a chunk, or a step of training, for a TPU or GPU topology, "
        "without one, and say what they need: memory, work, collectives, and the time they cannot go below.",
    )
    plan.set_defaults(command=_plan)
    add = plan.add_argument
    add("--preset", required=True, metavar="NAME", help=", ".join(PRESETS))
    add("--topology", required=True, metavar="NAME", help="v5p:2x2x1, v6e:4x4, h100:1x8, ...")
    add("--phase", choices=("generate", "train", "self-forcing"), default="generate",
        help="what is compiled: chunks (default), a step of stage 1, or one of stage 2")  # fmt: skip
    add("--minutes", type=float, default=1.0, metavar="M", help="of video (default: 1)")
    add(
        "--batch",
        type=int,
        metavar="N",
        help="videos of a step of training (default: the size of the axis data); of more than that "
        "gradients are accumulated",
    )
    add("--targets", type=int, metavar="N",
        help="chunks of a video that are drawn and denoised in training (default: all, twice)")  # fmt: skip
    add("--lora-rank", type=int, metavar="R", dest="lora_rank",
        help="--phase train of a LoRA of that rank (default: of the whole DiT)")  # fmt: skip
    add("--decode", action="store_true", help="compile the decoding of a chunk too (minutes more)")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides",
        help="change the configuration; may be repeated")  # fmt: skip
    add("--json", metavar="FILE", help="write the numbers there as well")
    mesh_option(plan)


def _plan(args: argparse.Namespace) -> None:
    from bvjax import policies
    from bvjax.files import write_json
    from bvjax.generate.checks import check_model
    from bvjax.plan import report
    from bvjax.plan.topology import topology_devices
    from bvjax.presets import get_preset
    from bvjax.sharding import parse_mesh

    model = policies.configure(get_preset(args.preset), args.overrides)
    check_model(model)
    if policies.policy_of(model.policy.name).windows:
        raise UserError(
            f"policy.name is {model.policy.name}; plan compiles policies that make one chunk after the other, and "
            "this one makes windows of chunks"
        )
    sizes = parse_mesh(args.mesh) if args.mesh else None
    if not args.minutes > 0:
        raise UserError(f"--minutes is {args.minutes:g}; it must be above 0")
    trains = args.phase != "generate"
    if trains:
        from bvjax.plan import self_forcing, training_report

        report = training_report if args.phase == "train" else self_forcing
        if args.decode:
            raise UserError("--decode is of --phase generate; training decodes nothing")
    elif args.batch is not None:
        raise UserError(
            "--batch is of --phase train or self-forcing; one video is generated at a time"
        )
    elif args.targets is not None:
        raise UserError("--targets is of --phase train or self-forcing; all chunks are generated")
    if args.lora_rank is not None and args.phase != "train":
        raise UserError(f"--lora-rank is of --phase train, not {args.phase}")
    if args.lora_rank is not None and args.lora_rank < 1:
        raise UserError(f"--lora-rank is {args.lora_rank}; it must be 1 or more")
    chip, devices = topology_devices(args.topology)
    options: dict[str, Any] = {"decode": args.decode}
    if trains:
        options = {"batch": args.batch, "targets": args.targets or 0}
    if args.lora_rank is not None:
        from bvjax.train.lora import LoraConfig

        options["lora"] = LoraConfig(rank=args.lora_rank)
    plan = report.make_plan(
        model,
        args.topology,
        chip,
        devices,
        sizes,
        args.minutes,
        say=lambda text: console.say(f"{text} ..."),
        **options,
    )
    print("\n".join(report.lines(plan)))
    if args.json:
        write_json(pathlib.Path(args.json), report.as_json(plan))
