"""The metrics by suite and name, and what each of them needs; nothing is loaded to look here."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence

from bvjax.errors import UserError
from bvjax.lvbench.metric import Context, Metric, Options

# Options that bring weights with them.
_CHOICES = {
    "flow=raft": ("raft_things",),
    "subject=dino": ("dino_vitb16",),
    "aesthetic=laion": ("clip_vit_l14", "laion_aesthetic"),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A metric before it is loaded.

    title: for tables. vde: whether it has a place in the paper's Table 2. complement: the VBench
    dimension that its whole-video score is. module: where `make(context) -> Metric` is.
    weights: names in `weights.FILES`, always needed. reads: fields of `Options` that may ask for
    more of them. drifts: whether its VDE and its size say something of quality: how much a video
    moves is neither good nor bad, and yes or no drifts by jumps.
    """

    suite: str
    key: str
    title: str
    module: str
    weights: tuple[str, ...] = ()
    complement: str = ""
    reads: tuple[str, ...] = ()
    drifts: bool = True

    @property
    def name(self) -> str:
        return f"{self.suite}/{self.key}"

    def needs(self, options: Options) -> tuple[str, ...]:
        """Weights that this metric needs with these options."""
        chosen = [
            option for option in self.reads if f"{option}={getattr(options, option)}" in _CHOICES
        ]
        extra = (_CHOICES[f"{option}={getattr(options, option)}"] for option in chosen)
        return self.weights + tuple(name for names in extra for name in names)

    def make(self, context: Context) -> Metric:
        return importlib.import_module(self.module).make(context)


def _entries() -> dict[str, Entry]:
    official = "bvjax.lvbench.official."
    paper = "bvjax.lvbench.paper."
    rows = (
        Entry("official", "subject", "Subject", official + "subject",
              ("dino_vitb16",), "subject_consistency"),
        Entry("official", "background", "Background", official + "background",
              ("clip_vit_b32",), "background_consistency"),
        Entry("official", "motion", "Motion", official + "motion",
              ("amt_s",), "motion_smoothness"),
        Entry("official", "aesthetic", "Aesthetic", official + "aesthetic",
              ("clip_vit_l14", "laion_aesthetic"), "aesthetic_quality"),
        Entry("official", "clarity", "Clarity", official + "clarity",
              ("musiq_spaq",), "imaging_quality"),
        Entry("official", "dynamic", "Dynamic", official + "dynamic",
              ("raft_things",), "dynamic_degree", drifts=False),
        Entry("paper", "subject", "Subject", paper + "subject",
              reads=("subject",)),
        Entry("paper", "background", "Background", paper + "background",
              reads=("flow",)),
        Entry("paper", "background_compensated", "Background, camera compensated",
              paper + "background_compensated", reads=("flow",)),
        Entry("paper", "motion", "Motion", paper + "motion", reads=("flow",)),
        Entry("paper", "motion_smoothness", "Motion smoothness", paper + "motion_smoothness"),
        Entry("paper", "aesthetic", "Aesthetic", paper + "aesthetic",
              reads=("aesthetic",)),
        Entry("paper", "clarity", "Clarity", paper + "clarity"),
    )  # fmt: skip
    return {entry.name: entry for entry in rows}


ENTRIES = _entries()
SUITES = ("official", "paper")


def choose(suite: str, metrics: Sequence[str] = ()) -> list[Entry]:
    """Metrics of a suite ("official", "paper" or "all"), all of them or those of these names.

    Raises `UserError` for an unknown suite or metric.
    """
    if suite not in (*SUITES, "all"):
        raise UserError(f"there is no suite {suite!r}; the suites are {', '.join(SUITES)} and all")
    here = [entry for entry in ENTRIES.values() if suite in (entry.suite, "all")]
    if not metrics:
        return here
    for name in metrics:
        if not any(name in (entry.key, entry.name) for entry in here):
            legal = ", ".join(dict.fromkeys(entry.key for entry in here))
            raise UserError(f"the suite {suite} has no metric {name!r}; it has {legal}")
    return [entry for entry in here if entry.key in metrics or entry.name in metrics]
