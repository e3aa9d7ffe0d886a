"""Runs of earlier versions go on: their config.json is understood and their checkpoints open.

`tests/fixtures/training` holds two that were made on one CPU device with `train.steps=4` and cut after step 2,
with the files that Orbax wrote.  Their configurations are those of `CHANGES`.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import runpy
import tarfile
from pathlib import Path

import numpy as np
import pytest
from small_runs import SMALL, SMALL_DIT, make_stories

from bvjax import presets
from bvjax.overrides import apply_overrides
from bvjax.weights import load_config
from experiments import wiring
from experiments.experiment import as_config, experiment_of

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "tests" / "fixtures" / "training"
CONFIGS = ROOT / "experiments" / "configs"
COMMON = {
    "train.steps": 4,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
    "train.sample_every": 0,
    "optimizer.warmup_steps": 1,
    "optimizer.lr": 0.002,
}
CHANGES = {
    "vae": {
        "train.global_batch_size": 2, "train.device_batch_size": 1,
        "data.cache_dir": "", "data.stories": 2, "data.heldout_stories": 1, "data.frames": 3,
        "data.crop": 0, "vae.heldout_clips": 2, "vae.stat_batches": 1, "vae.start": "random",
    },
    "dit": {
        "data.weights": "data/weights", "data.latents": "data/latents",
        "data.heldout_stories": 1, "data.sample_stories": 1, "data.sample_chunks": 1,
        "forcing.frames": 4, "optimizer.kind": "adamw", "block.cond_source": "shown",
    },
}  # fmt: skip
# What their presets and overrides say.
MODELS = {
    "vae": apply_overrides(SMALL, ["vae.dim=2", "vae.latent_std=(2,2,2,2)"]),
    "dit": apply_overrides(
        SMALL_DIT,
        [
            "dit.matmul_precision=bfloat16",
            "dit.similarity_keys=True",
            "dit.qk_init=2",
            "dit.spatial_position_embedding=True",
        ],
    ),
}
# Of steps 3 and 4: of the VAE as the version that made the run went on, of the DiT with draws by example.
LOSSES = {
    "vae": (3.2256884574890137, 2.490184783935547),
    "dit": (1.7258836030960083, 1.5842840671539307),
}
RATES = {"vae": (0.002, 0.002, 0.00151, 0.00053), "dit": (0.002, 0.002, 0.001525, 0.000575)}


@pytest.fixture(params=["vae", "dit"])
def run(request, tmp_path, monkeypatch):
    """The task's name; its run lies in the working directory with the files that it reads."""
    monkeypatch.setitem(presets.PRESETS, "small", SMALL)
    monkeypatch.setitem(presets.PRESETS, "small-dit", SMALL_DIT)
    monkeypatch.chdir(tmp_path)
    with tarfile.open(RUNS / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    make_stories(Path("data/weights"), Path("data/latents"))
    return request.param


def config_of(task: str):
    """The experiment under the names of now."""
    base = runpy.run_path(str(CONFIGS / f"mini_{task}.py"))["experiment"]()
    config = as_config(dataclasses.replace(base, model=MODELS[task])).lock()
    config.update_from_flattened_dict(COMMON | CHANGES[task])
    return experiment_of(config)


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on(run):
    assert wiring.train(config_of(run), Path(run)) is None
    with open(Path(run, "metrics.csv"), newline="") as f:
        rows = list(csv.DictReader(f))
    assert [row["step"] for row in rows] == list("1234")
    np.testing.assert_allclose([float(row["loss"]) for row in rows[2:]], LOSSES[run], rtol=1e-3)
    np.testing.assert_allclose([float(row["lr"]) for row in rows], RATES[run], rtol=1e-5)
    load_config(Path(run, "weights"))


def test_a_config_of_an_earlier_version_is_the_same_under_the_names_of_now(run, caplog):
    content = json.loads(Path(run, "config.json").read_text())
    assert content["preset"] and "model" not in content
    assert experiment_of(content) == config_of(run)
    assert "preset and overrides are now the section model" in caplog.text
