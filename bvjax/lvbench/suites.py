"""The table of metrics by suite and name, with the weights that each needs; loads nothing."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence

from bvjax.errors import UserError
from bvjax.lvbench.metric import Metric, MetricContext, Options

# Weights that options need.
_OPTION_WEIGHTS = {
    "flow=raft": ("raft_things",),
    "subject=dino": ("dino_vitb16",),
    "aesthetic=laion": ("clip_vit_l14", "laion_aesthetic"),
}


@dataclasses.dataclass(frozen=True)
class MetricEntry:
    """A metric before it is loaded.

    title: for tables. complement: the VBench dimension of its whole-video score. module: where `make(context) -> Metric` is.
    weights: names in `weights.FILES`, always needed. weight_options: fields of `Options` that may
    need more of them. measures_quality: False for metrics whose value and VDE say nothing about
    quality: more motion is neither good nor bad, and a yes-or-no value drifts by jumps.
    """

    suite: str
    key: str
    title: str
    module: str
    weights: tuple[str, ...] = ()
    complement: str = ""
    weight_options: tuple[str, ...] = ()
    measures_quality: bool = True

    @property
    def name(self) -> str:
        return f"{self.suite}/{self.key}"

    def required_weights(self, options: Options) -> tuple[str, ...]:
        """Weights that this metric needs with these options."""
        chosen_options = [
            option
            for option in self.weight_options
            if f"{option}={getattr(options, option)}" in _OPTION_WEIGHTS
        ]
        extra = (
            _OPTION_WEIGHTS[f"{option}={getattr(options, option)}"] for option in chosen_options
        )
        return self.weights + tuple(name for names in extra for name in names)

    def make(self, context: MetricContext) -> Metric:
        return importlib.import_module(self.module).make(context)


def _metric_entries() -> dict[str, MetricEntry]:
    official = "bvjax.lvbench.official."
    paper = "bvjax.lvbench.paper."
    entries = (
        MetricEntry("official", "subject", "Subject", official + "subject",
              ("dino_vitb16",), "subject_consistency"),
        MetricEntry("official", "background", "Background", official + "background",
              ("clip_vit_b32",), "background_consistency"),
        MetricEntry("official", "motion", "Motion", official + "motion",
              ("amt_s",), "motion_smoothness"),
        MetricEntry("official", "aesthetic", "Aesthetic", official + "aesthetic",
              ("clip_vit_l14", "laion_aesthetic"), "aesthetic_quality"),
        MetricEntry("official", "clarity", "Clarity", official + "clarity",
              ("musiq_spaq",), "imaging_quality"),
        MetricEntry("official", "dynamic", "Dynamic", official + "dynamic",
              ("raft_things",), "dynamic_degree", measures_quality=False),
        MetricEntry("paper", "subject", "Subject", paper + "subject",
              weight_options=("subject",)),
        MetricEntry("paper", "background", "Background", paper + "background",
              weight_options=("flow",)),
        MetricEntry("paper", "background_compensated", "Background, camera compensated",
              paper + "background_compensated", weight_options=("flow",)),
        MetricEntry("paper", "motion", "Motion", paper + "motion", weight_options=("flow",)),
        MetricEntry("paper", "motion_smoothness", "Motion smoothness", paper + "motion_smoothness"),
        MetricEntry("paper", "aesthetic", "Aesthetic", paper + "aesthetic",
              weight_options=("aesthetic",)),
        MetricEntry("paper", "clarity", "Clarity", paper + "clarity"),
    )  # fmt: skip
    return {entry.name: entry for entry in entries}


METRIC_ENTRIES = _metric_entries()
SUITES = ("official", "paper")


def choose(suite: str, metrics: Sequence[str] = ()) -> list[MetricEntry]:
    """Metrics of a suite ("official", "paper" or "all"), all of them or those of these names.

    Raises `UserError` for an unknown suite or metric.
    """
    if suite not in (*SUITES, "all"):
        raise UserError(f"there is no suite {suite!r}; the suites are {', '.join(SUITES)} and all")
    in_suite = [entry for entry in METRIC_ENTRIES.values() if suite in (entry.suite, "all")]
    if not metrics:
        return in_suite
    for name in metrics:
        if not any(name in (entry.key, entry.name) for entry in in_suite):
            legal = ", ".join(dict.fromkeys(entry.key for entry in in_suite))
            raise UserError(f"the suite {suite} has no metric {name!r}; it has {legal}")
    return [entry for entry in in_suite if entry.key in metrics or entry.name in metrics]
