"""Presets and switches of the page, with plain explanations: which keys of the configuration visitors may set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from bvjax.config import ModelConfig
from bvjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Switch:
    """One key: a list of options, or a range of numbers."""

    key: str
    title: str
    text: str  # what it does, for people who know no model
    options: tuple[tuple[str, str], ...] = ()  # (value, what it means)
    low: float = 0.0
    high: float = 0.0
    step: float = 1.0


SWITCHES = (
    Switch(
        "retrieval.kind",
        "What it looks back at",
        "Each chunk sees the first frame, the chunks just before it, and the past chunks that this rule picks.",
        (
            ("semantic", "By meaning: past chunks whose captions are like this one's"),
            ("rolling", "The latest: only what was made last"),
            ("random", "By chance, to compare with"),
            ("none", "Nothing but the first frame"),
        ),
    ),
    Switch(
        "guidance.memory",
        "Follow the memory",
        "How strongly a chunk is pulled towards what it looked back at. 0 leaves it to the captions; high values bring "
        "characters back more surely and colours out more harshly.",
        low=0,
        high=12,
        step=0.5,
    ),
    Switch(
        "guidance.scale",
        "Follow the caption",
        "How strongly a chunk is pulled towards its caption where nothing was looked back at. 1 is no pull.",
        low=1,
        high=12,
        step=0.5,
    ),
    Switch(
        "sampler.steps",
        "Care",
        "Steps from noise to picture for each chunk. Fewer are faster and rougher.",
        low=2,
        high=50,
        step=1,
    ),
)
# Names, what they are for, and the keys that they set besides those of the weights.
PRESETS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("As trained", "What the weights were made for.", {}),
    ("Sketch", "Less than half the steps: to try a story out.", {"sampler.steps": 8}),
    (
        "Without the past",
        "Looks only at what was made last: see what the memory is good for.",
        {"retrieval.kind": "rolling", "guidance.memory": 0},
    ),
)


def offered(model: ModelConfig) -> tuple[Switch, ...]:
    """The switches that mean something for a model."""
    without = set()
    if model.sampler.kind == "few_step":  # its steps are a list that it was trained with
        without.add("sampler.steps")
    if not model.guidance.guided:
        without |= {"guidance.scale", "guidance.memory"}
    if not model.retrieval.num_retrieved:
        without |= {"retrieval.kind", "guidance.memory"}
    if model.policy.name != "blockvid":  # other policies decide what is seen
        without.add("retrieval.kind")
    return tuple(switch for switch in SWITCHES if switch.key not in without)


def described(model: ModelConfig) -> dict[str, Any]:
    """The switches that the page shows, with their values, and the presets of what is offered."""
    switches = offered(model)
    keys = {switch.key for switch in switches}
    return {
        "switches": [
            {**dataclasses.asdict(switch), "value": value_of(model, switch.key)}
            for switch in switches
        ],
        "presets": [
            {"title": title, "text": text, "values": dict(values)}
            for title, text, values in PRESETS
            if set(values) <= keys
        ],
    }


def value_of(model: ModelConfig, key: str) -> Any:
    """The value of "section.name" in a configuration."""
    section, _, name = key.partition(".")
    return getattr(getattr(model, section), name)


def overrides(model: ModelConfig, values: Mapping[str, Any]) -> tuple[str, ...]:
    """ "section.key=value" of what a visitor chose, for a run; raises `UserError` for whatever is not offered."""
    switches = {switch.key: switch for switch in offered(model)}
    texts = []
    for key, value in values.items():
        switch = switches.get(key)
        if switch is None:
            raise UserError(f"{key[:40]!r} cannot be set; it can be {', '.join(switches)}")
        if switch.options:
            legal = [name for name, _ in switch.options]
            if value not in legal:
                raise UserError(f"{key} cannot be that; it can be {', '.join(legal)}")
        else:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or not switch.low <= value <= switch.high:
                raise UserError(f"{key} must be a number from {switch.low:g} to {switch.high:g}")
            value = int(value) if isinstance(value_of(model, key), int) else float(value)
        if value != value_of(model, key):
            texts.append(f"{key}={value}")
    return tuple(texts)
