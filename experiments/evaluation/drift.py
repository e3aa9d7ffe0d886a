"""Drift of clarity and motion along generated minutes, beside the rendered truth (Eq. 19-22)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8

from bvjax.lvbench.clarity import clarity
from bvjax.lvbench.intervals import mean
from bvjax.lvbench.motion import motion
from bvjax.lvbench.vde import SEGMENTS, segment_means, segment_pair_means, vde
from experiments.evaluation.results import Record

TRUTH = ("rendered", "reconstructed")  # what a video without any drift of its own scores
MEASURES = ("clarity", "motion")


def drift_record(frames: UInt8[np.ndarray, "f h w 3"]) -> Record:
    """Both scores of each tenth of a video."""
    return {
        "clarity": segment_means(clarity(frames)).tolist(),
        "motion": segment_pair_means(motion(frames)).tolist(),
    }


def summary(records: dict[str, Record]) -> dict[str, Any]:
    """Per source ("source seed" names a record): VDE, VDE / sum(w) and level of each measure."""
    sources: dict[str, list[Record]] = {source: [] for source in TRUTH}
    for name, record in records.items():
        sources.setdefault(name.split()[0], []).append(record)
    return {
        source: {
            measure: {
                "vde": mean([float(vde(r[measure])) for r in minutes]),
                "vde, log weights": mean([float(vde(r[measure], "log")) for r in minutes]),
                "vde / sum(w)": mean([float(vde(r[measure], normalise=True)) for r in minutes]),
                "level": mean([float(np.mean(r[measure])) for r in minutes]),
            }
            for measure in MEASURES
        }
        for source, minutes in sources.items()
        if minutes
    } | {"segments": SEGMENTS}
