"""Makes the golden files of SkyReels-V2 with diffusers: `python -m tests.golden.make_skyreels`.

Needs torch, diffusers and transformers; the files hold what `skyreels_cases` gave there.
"""

from __future__ import annotations

import pathlib

import numpy as np
import torch

from tests.golden import skyreels_cases as cases
from tests.torch import skyreels_pipeline

HERE = pathlib.Path(__file__).parent


def velocities() -> dict[str, np.ndarray]:
    """By name of a case."""
    return {case.name: skyreels_pipeline.velocity(case) for case in cases.DIT_CASES}


def timetables() -> dict[str, np.ndarray]:
    """By number of a case: rows of labels, counts, updates [3, k, f], and the intervals [k, 2]."""
    made, found = skyreels_pipeline.pipeline(cases.PIPELINE), {}
    for number, (steps, frames, ready, window, ar_step, block) in enumerate(cases.TIMETABLES):
        labels = torch.from_numpy(cases.timetable_labels(steps))
        *rows, interval = made.generate_timestep_matrix(
            frames, labels, window, ar_step, ready, block
        )
        found[f"rows {number}"] = np.stack([x.numpy() for x in rows]).astype(np.int16)
        found[f"interval {number}"] = np.array(interval, np.int16)
    return found


def videos() -> dict[str, np.ndarray]:
    """Latents of each case, and of the first every few frames and pixels of the video."""
    found = {}
    for name, model in cases.PIPELINE_CASES.items():
        made = skyreels_pipeline.pipeline(model)
        found[name] = skyreels_pipeline.call(made, model, "latent")
        if model is cases.PIPELINE:
            found["video"] = cases.thinned(skyreels_pipeline.call(made, model, "np"))
    return found


if __name__ == "__main__":
    for name, make in (("dit", velocities), ("timetable", timetables), ("pipeline", videos)):
        np.savez_compressed(HERE / f"skyreels_{name}.npz", **make())
