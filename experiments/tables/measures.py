"""The measures of a video, by name: their titles, which way is better, and their values out of a record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bvjax.lvbench.formatting import finite

Record = Mapping[str, Any]
# Of the suite paper (`bvjax.lvbench.suites`), with their titles.
SCORES = {
    "subject": "Subject",
    "background": "Background",
    "background_compensated": "Background, camera compensated",
    "motion": "Motion",
    "motion_smoothness": "Motion smoothness",
    "aesthetic": "Aesthetic",
    "clarity": "Clarity",
}
HIGHER = ("subject", "background", "background_compensated", "motion_smoothness", "aesthetic")
# Whole chunks in which what is shown again was not to be seen: from, to.
GAPS: dict[str, tuple[int, float]] = {
    "1 to 3": (1, 3),
    "4 to 7": (4, 7),
    "8 or more": (8, np.inf),
}


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number of a video.

    better: min or max; None where more is neither. compared: whether rows are tested by it.
    value: of a record; None where the video has none.
    """

    title: str
    better: Callable[..., Any] | None
    value: Callable[[Record], float | None]
    compared: bool = True


def _drift(score: str) -> Callable[[Record], float | None]:
    return lambda record: finite(record["scores"][score]["vde"])


def _level(score: str) -> Callable[[Record], float | None]:
    return lambda record: finite(record["scores"][score]["level"])


def recalled(
    sightings: Sequence[Mapping[str, Any]], kind: str, gap: tuple[int, float]
) -> list[bool]:
    """Whether each thing that only memory can draw right is right, of those unseen for so many chunks."""
    low, high = gap
    return [
        all(s["right"].values())
        for s in sightings
        if s["kind"] == kind and s["recall"] and low <= s["gap"] <= high
    ]


def _recall(kind: str, gap: tuple[int, float]) -> Callable[[Record], float | None]:
    def value(record: Record) -> float | None:
        hits = recalled(record["sightings"], kind, gap)
        return float(np.mean(hits)) if hits else None

    return value


def _species(record: Record) -> float | None:
    hits = [s["right"]["species"] for s in record["sightings"] if s["kind"] == "subject"]
    return float(np.mean(hits)) if hits else None


def _measures() -> dict[str, Measure]:
    table = {
        f"vde/{key}": Measure(f"VDE {title}", min, _drift(key)) for key, title in SCORES.items()
    }
    table |= {
        f"level/{key}": Measure(
            f"{title}, level", max if key in HIGHER else None, _level(key), False
        )
        for key, title in SCORES.items()
    }
    for kind in ("subject", "place"):
        table[f"recall/{kind}"] = Measure(f"{kind} recall", max, _recall(kind, (1, np.inf)))
        table |= {
            f"recall/{kind}/{name}": Measure(
                f"{kind} recall, {name} chunks unseen", max, _recall(kind, gap), False
            )
            for name, gap in GAPS.items()
        }
    return table | {
        "species": Measure("species", max, _species),
        "sharpness": Measure("sharpness", max, lambda r: finite(r["sharpness"])),
        "seam": Measure("seam", min, lambda r: finite(r["seam"])),
        "motion": Measure("motion, pixels a frame", None, _level("motion")),
        "seconds": Measure("seconds a chunk", min, lambda r: r["seconds"] if r["warm"] else None, False),
        "memory": Measure("memory, MB", min, lambda r: r["memory_bytes"] / 1e6, False),
    }  # fmt: skip


MEASURES = _measures()
# Shown of every table, beside the columns that stand for the paper's.
SHOWN = (
    "recall/subject",
    "recall/place",
    "species",
    "sharpness",
    "seam",
    "motion",
    "seconds",
    "memory",
)
BY_GAP = tuple(f"recall/{kind}/{gap}" for kind in ("subject", "place") for gap in GAPS)
COMPARED = tuple(name for name in SHOWN if MEASURES[name].compared)
