"""Needs of a training draw from its examples, beside latents and captions."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from bvjax.errors import UserError
from bvjax.memory.rules import RULES

if TYPE_CHECKING:
    from bvjax.losses.teacher_forcing import ForcingConfig

WORDS = {
    "relevance": "ground-truth scores between chunks",
    "standalone": "captions that stand alone",
    "joined": "which chunks go on from the one before",
    "shot": "where shots begin",
}


def needed_extras(forcing: ForcingConfig) -> dict[str, list[str]]:
    """The settings that need an extra array of examples, with their values, by the name of the extra."""
    relevance = []
    if forcing.targets_per_chunk:
        chances = forcing.history.weights
        relevance = [
            f"history.{kind}={chances[kind]:g}"
            for kind, rule in RULES.items()
            if "oracle" in rule.needs and chances[kind]
        ]
        if forcing.revisit_fraction:
            relevance.append(f"forcing.revisit_fraction={forcing.revisit_fraction:g}")
    standalone = [f"forcing.standalone={forcing.standalone:g}"] if forcing.standalone else []
    joined = ["forcing.joined_targets=True"] if forcing.joined_targets else []
    needs = {"relevance": relevance, "standalone": standalone, "joined": joined}
    return {name: settings for name, settings in needs.items() if settings}


def check_extras(forcing: ForcingConfig, extras: Collection[str]) -> None:
    """Raises `UserError` for settings that need what the examples do not have."""
    missing = {
        name: settings for name, settings in needed_extras(forcing).items() if name not in extras
    }
    if missing:
        problems = [
            f"no {name} ({WORDS[name]}), which {' and '.join(settings)} need{'s' * (len(settings) == 1)}"
            for name, settings in missing.items()
        ]
        raise UserError(
            f"the examples have {' and '.join(problems)}: set what needs it to 0, or use a data set that has it"
        )
