"""Weights and runs as an earlier version wrote them, whose fields had other names, still open and go on."""

from __future__ import annotations

import json
import logging
import pathlib
import tarfile

import numpy as np
import pytest

import bvjax
from bvjax import weights
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.old_field_names import FIELDS
from bvjax.overrides import all_keys, apply_overrides, from_dict
from bvjax.presets import MINI

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures/generation/old_names.tar.xz"


@pytest.fixture
def old(tmp_path):
    """A weights folder and a run of two chunks, with the run's path to the weights mended."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    settings = tmp_path / "run/config.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"weights": str(tmp_path / "weights")}))
    return tmp_path


def test_old_weights_have_the_names_of_now(old):
    written = json.loads((old / "weights/config.json").read_text())["model"]
    assert written["cfg"]["memory"] == 3.0 and written["dit"]["output"] == "residual"
    model, params = weights.load_weights(old / "weights")
    assert model.guidance.memory == 3.0 and model.guidance.scale == 2.0
    assert model.dit.preconditioning == "linear" and model.dit.spatial_position_embedding
    assert model.dit.matmul_precision == "bfloat16" and model.memory.offload == "none"
    assert (model.retrieval.num_retrieved, model.retrieval.num_recent) == (1, 2)
    assert model.sampler.schedule == "diffusers" and set(params) == {"vae", "text", "dit"}


@pytest.mark.slow
def test_an_old_run_goes_on(old):
    before = np.load(old / "run/latents/chunk_02.npy")
    for path in (old / "run/latents").glob("chunk_02*"):
        path.unlink()
    pipeline = bvjax.load(old / "weights")
    video = pipeline.resume(old / "run")
    assert len(video.latents) == 1 + 2 * 2
    # Made on another machine by other programs, so not to the last bit.
    np.testing.assert_allclose(video.latents[-2:], before, rtol=0, atol=0.02 * before.std())


def test_every_row_leads_from_no_field_to_a_field():
    legal = {path.rpartition(".")[2] for path in all_keys(ModelConfig)} | {"guidance"}
    for fields in FIELDS.values():
        assert all(row.name in legal for row in fields.values())
    words = (
        "cfg.memory=2", "dit.products=bfloat16", "dit.place_embedding=True", "dit.output=velocity",
        "vae.stage_patch=4", "memory.place=device", "sampler.grid=diffusers", "retrieval.l=1", "retrieval.recent=3",
    )  # fmt: skip
    model = apply_overrides(MINI, words)
    new = (
        "guidance.memory=2",
        "dit.matmul_precision=bfloat16",
        "dit.spatial_position_embedding=True",
        "vae.stem_patch=4",
        "dit.preconditioning=none",
        "memory.offload=none",
        "sampler.schedule=diffusers",
        "retrieval.num_retrieved=1",
        "retrieval.num_recent=3",
    )
    assert model == apply_overrides(MINI, new) != MINI


def test_an_old_name_is_told_once_with_the_new_one(caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        apply_overrides(MINI, ["cfg.scale=3"])
    assert "cfg.scale is called guidance.scale now" in caplog.text


def test_a_field_by_both_names_is_refused():
    with pytest.raises(UserError, match="cfg.scale.*guidance.scale is given twice|given twice"):
        apply_overrides(MINI, ["cfg.scale=3", "guidance.scale=4"])
    with pytest.raises(UserError, match="cfg is the old name of guidance, and both are given"):
        from_dict(ModelConfig, {"name": "x", "cfg": {}, "guidance": {}})


def test_values_that_were_renamed_are_refused_by_their_new_names():
    with pytest.raises(UserError, match="there is no configuration key 'memory.palce'"):
        apply_overrides(MINI, ["memory.palce=host"])
