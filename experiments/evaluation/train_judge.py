"""Trains the judge and says how accurate it is:

python -m experiments.evaluation.train_judge --weights=bvjax/assets/mini

A few minutes on two CPU cores.  It learns from train stories (--net=conv) or from recast pictures (--net=attention),
rendered and passed through the VAE of `--weights`, and is measured on chunks of held-out stories, both ways.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging
from tqdm import tqdm

from bvjax import console
from bvjax.errors import UserError
from bvjax.weights import load_weights
from experiments.evaluation.judge import DEFAULT, NETS, Judge, save_judge
from experiments.evaluation.judge_data import (
    PICTURES,
    Pictures,
    accuracy,
    heldout_units,
    score_unit,
)
from experiments.evaluation.judge_training import train

_WEIGHTS = flags.DEFINE_string("weights", "bvjax/assets/mini", "Weights folder with the VAE.")
_OUT = flags.DEFINE_string("out", str(DEFAULT), "Where the judge goes.")
_STORIES = flags.DEFINE_integer("stories", 300, "Train stories to learn from.", lower_bound=1)
_CLIPS = flags.DEFINE_integer("clips", 8, "Moments taken from each story.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 1500, "Updates.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 128, "Frames an update.", lower_bound=1)
_HELDOUT = flags.DEFINE_integer("heldout", 80, "Held-out stories to measure it on.", lower_bound=1)
_NET = flags.DEFINE_enum("net", "conv", sorted(NETS), "Which of the two judges.")
_SEED = flags.DEFINE_integer("seed", 0, "Of moments, casts, order and augmentation.")


def run(
    weights: Path,
    out: Path,
    stories: int,
    clips: int,
    steps: int,
    batch: int,
    heldout: int,
    seed: int,
    net: str = "conv",
) -> dict[str, Any]:
    """Trains, measures and saves; returns the accuracy."""
    model, params = load_weights(weights, parts=("vae",))
    started = time.perf_counter()
    numbers = tqdm(range(stories), desc="pictures", unit="story")
    parts = [PICTURES[net](n, clips, model, params["vae"], seed) for n in numbers]
    learned = train(Pictures.join(parts), steps, batch, seed, net)
    judge = Judge(learned, {}, net)
    scored = [
        score_unit(judge, unit, model, params["vae"])
        for number in tqdm(range(heldout), desc="held out", unit="story")
        for unit in heldout_units(number, model)
    ]
    metadata = {
        "accuracy": accuracy(scored),
        "train_stories": stories,
        "clips": clips,
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "heldout_stories": heldout,
        "vae_sha256": hashlib.sha256((weights / "vae.safetensors").read_bytes()).hexdigest(),
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "device": jax.devices()[0].device_kind,
    }
    save_judge(out, Judge(jax.device_get(learned), metadata, net))
    return metadata


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)  # JAX tells which backends it does not find
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}")
    sizes = (_STORIES.value, _CLIPS.value, _STEPS.value, _BATCH.value, _HELDOUT.value)
    try:
        metadata = run(Path(_WEIGHTS.value), Path(_OUT.value), *sizes, _SEED.value, _NET.value)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for source, heads in metadata["accuracy"].items():
        for head, rate in heads.items():
            if rate["n"]:
                print(f"{source:14s} {head:18s} {100 * rate['rate']:5.1f} %  (n = {rate['n']})")
    return 0


if __name__ == "__main__":
    console.run_flags(main)
