"""Axes: what is varied while the rest stays as it is (gap 12, three subjects, two places, the name, the weights' own
settings).

An axis of stories needs pixels only and can be measured on videos made elsewhere; an axis of the memory needs weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bvjax import policies
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.generate.checks import check_model
from data_pipelines.storyworld.staged import WORDINGS, Staging
from experiments.memory_bench.cases import Case

MINUTES = {"5 minutes": Staging(gap=70), "10 minutes": Staging(gap=145)}  # 75 and 150 chunks
ONE = {"": Staging()}
Values = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Condition:
    """Stories, the wording of their last caption, and overrides of the model."""

    staging: Staging = Staging()
    wording: str = "name"
    settings: tuple[str, ...] = ()

    def case(self, seed: int) -> Case:
        return Case(seed, self.staging, self.wording)


@dataclasses.dataclass(frozen=True)
class Axis:
    """A row of `AXES`."""

    label: str
    values: Values
    quick: Values  # with --quick
    # Of an axis of stories: (staging, value) -> condition.
    stories: Callable[[Staging, Any], Condition] | None = None
    # Of an axis of the memory: (model, value) -> override.
    setting: Callable[[ModelConfig, Any], str] | None = None
    series: Mapping[str, Staging] = dataclasses.field(default_factory=lambda: ONE)


def _staged(name: str) -> Callable[[Staging, Any], Condition]:
    """The condition whose staging has the value in a field."""
    return lambda staging, value: Condition(dataclasses.replace(staging, **{name: value}))


def _capacity(model: ModelConfig, share: float) -> str:
    """A share of a chunk's tokens, and no fewer than the anchor has, which is kept whole."""
    grid = ChunkGrid.of(model)
    anchor = grid.first_entry_latents // model.dit.patch[0] * grid.tokens_per_latent
    return f"memory.capacity={max(anchor, round(share * grid.tokens_per_chunk))}"


AXES: dict[str, Axis] = {
    "gap": Axis(
        "chunks of 4 s between the meeting and the return",
        (2, 5, 12, 20, 40, 60),
        (2, 12, 60),
        stories=_staged("gap"),
    ),
    "subjects": Axis("subjects in the story", (2, 3, 5, 8), (2, 8), stories=_staged("subjects")),
    "places": Axis("places in the story", (1, 2, 4, 6), (1, 6), stories=_staged("places")),
    "wording": Axis(
        "wording of the returning caption",
        WORDINGS,
        WORDINGS,
        stories=lambda staging, value: Condition(staging, value),
    ),
    "rule": Axis(
        "retrieval.kind",
        ("semantic", "rolling", "random"),
        ("semantic", "rolling"),
        setting=lambda model, value: f"retrieval.kind={value}",
    ),
    "top_l": Axis(
        "retrieval.num_retrieved",
        (0, 1, 2, 4, 8),
        (0, 2, 4),
        setting=lambda model, value: f"retrieval.num_retrieved={value}",
    ),
    "tau": Axis(
        "memory.tau",
        (0.5, 0.8, 0.9, 0.95, 0.98, 1.0),
        (0.5, 0.98),
        setting=lambda model, value: f"memory.tau={value}",
    ),
    "capacity": Axis(
        "memory.capacity, share of a chunk's tokens",
        (0.125, 0.25, 0.5, 1.0),
        (0.125, 1.0),
        setting=_capacity,
    ),
    "slots": Axis(
        "memory.slots",
        (8, 16, 32, 64, 160),
        (8, 16, 32),
        setting=lambda model, value: f"memory.slots={value}",
        series=MINUTES,
    ),
    "evict": Axis(
        "memory.evict",
        ("redundant", "oldest"),
        ("redundant", "oldest"),
        setting=lambda model, value: f"memory.evict={value}",
        series=MINUTES,
    ),
}
STORY_AXES = tuple(name for name, axis in AXES.items() if axis.stories)


@dataclasses.dataclass(frozen=True)
class Point:
    """A value of an axis, in one of its series."""

    axis: str
    series: str
    value: Any
    condition: Condition


def check_axes(names: Iterable[str], legal: Iterable[str] = tuple(AXES)) -> tuple[str, ...]:
    """The axes named, in the order of the table; raises `UserError` for one that there is not."""
    names, legal = set(names), tuple(legal)
    for name in sorted(names):
        if name not in AXES:
            raise UserError(f"there is no axis {name!r}; the axes are {', '.join(legal)}")
        if name not in legal:
            raise UserError(
                f"axis {name!r} changes the memory of a model, which needs weights; axes of stories are {', '.join(legal)}"
            )
    if not names:
        raise UserError(f"no axis is given; the axes are {', '.join(legal)}")
    return tuple(name for name in legal if name in names)


def points(names: Iterable[str], quick: bool, model: ModelConfig | None = None) -> list[Point]:
    """The points of some axes.

    Args:
        model: as it is measured, with the overrides of the command; an axis of the memory needs one.

    Raises `UserError` for a setting that the model cannot have.
    """
    found = []
    for name in names:
        axis = AXES[name]
        for series, staging in axis.series.items():
            for value in axis.quick if quick else axis.values:
                if axis.stories is not None:
                    condition = axis.stories(staging, value)
                else:
                    assert axis.setting is not None and model is not None
                    settings = (axis.setting(model, value),)
                    changed = policies.configure(model, settings)
                    check_model(changed, staging.returns)
                    condition = Condition(staging, "name", () if changed == model else settings)
                found.append(Point(name, series, value, condition))
    return found
