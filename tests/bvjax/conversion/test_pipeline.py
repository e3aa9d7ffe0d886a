"""What diffusers pipelines say beyond their parts, read and written."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from bvjax import weights
from bvjax.config import SamplerConfig, VAEConfig
from bvjax.conversion import pipeline
from bvjax.conversion.converter import convert
from bvjax.conversion.sources import open_sources
from bvjax.errors import UserError
from bvjax.generate.checks import check_model
from tests.conftest import TINY, make_tokenizer
from tests.golden import recipe

SAMPLER = SamplerConfig(steps=7, shift=6.0)
# As the published folders have it; what they do not name is the class's own.
PUBLISHED = {
    "_class_name": "UniPCMultistepScheduler",
    "_diffusers_version": "0.33.0",
    "flow_shift": 3.0,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "solver_order": 2,
    "timestep_spacing": "linspace",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A plain Wan model as a diffusers pipeline."""
    folder = tmp_path_factory.mktemp("pipeline")
    model = dataclasses.replace(
        TINY,
        dit=dataclasses.replace(TINY.dit, similarity_keys=False),
        sampler=dataclasses.replace(SAMPLER, schedule="wan"),
    )
    params = {part: recipe.params(model, part) for part in weights.PARTS}
    weights.save_weights(folder / "ours", model, params, tokenizer=make_tokenizer(folder))
    convert(folder / "ours", folder / "theirs", "diffusers")
    return folder


@pytest.fixture
def read(exported, tmp_path):
    """Of a scheduler's file to the sampler."""
    (tmp_path / "scheduler").mkdir()
    for part in ("transformer", "text_encoder"):
        (tmp_path / part).symlink_to(exported / "theirs" / part)

    def read(told, sampler=SAMPLER):
        text = told if isinstance(told, str) else json.dumps(told)
        (tmp_path / pipeline.SCHEDULER).write_text(text)
        return pipeline.read_sampler(open_sources(tmp_path), sampler)

    return read


@pytest.mark.parametrize(
    "told, changed",
    [
        (PUBLISHED, {"kind": "unipc", "shift": 3.0}),
        (PUBLISHED | {"disable_corrector": [], "solver_p": None}, {"kind": "unipc", "shift": 3.0}),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 8.0}, {"kind": "euler", "shift": 8.0}),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, {"kind": "euler", "shift": 1.0}),
    ],
)  # fmt: skip
def test_read(read, told, changed):
    sampler = read(told)
    assert sampler == dataclasses.replace(SAMPLER, schedule="diffusers", **changed)
    few = SamplerConfig(kind="few_step", steps=4)
    assert read(told, few) == few


@pytest.mark.parametrize(
    "told, match",
    [
        ({"_class_name": "DDIMScheduler"}, "is a DDIMScheduler, which bvjax has not"),
        (PUBLISHED | {"solver_order": 3}, "solver_order 3, which bvjax has not; unipc is kept"),
        (PUBLISHED | {"disable_corrector": [0]}, r"disable_corrector \[0\]"),
        ({"_class_name": "UniPCMultistepScheduler"}, "prediction_type 'epsilon', use_flow_sigmas"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
            "dynamic",
        ),
    ],
)
def test_other_schedulers_are_left_with_a_warning(read, told, match, monkeypatch):
    said = []
    monkeypatch.setattr(pipeline.logging, "warning", lambda text, *args: said.append(text % args))
    assert read(told) == SAMPLER
    (message,) = said
    assert re.search(match, message)


@pytest.mark.parametrize(
    "told",
    [
        "{",
        "[1]",
        "{}",
        *(json.dumps(PUBLISHED | {"flow_shift": x}) for x in ("3.0", True, 0, [3.0], 1e9)),
    ],
)
def test_a_damaged_file_is_refused(read, told):
    with pytest.raises(UserError, match="scheduler_config.json is damaged"):
        read(told)


def test_without_a_pipeline_nothing_changes(exported):
    assert pipeline.read_sampler(open_sources(exported / "ours"), SAMPLER) == SAMPLER


def test_conversion_takes_the_sampler_of_the_pipeline(exported, tmp_path):
    """A manifest of ours knows more; without it the scheduler is believed, below what is set by hand."""
    convert(exported / "theirs", tmp_path / "told", "bvjax")
    assert weights.load_config(tmp_path / "told").sampler == SAMPLER
    (exported / "theirs" / "manifest.json").rename(tmp_path / "manifest.json")
    try:
        model = convert(exported / "theirs", tmp_path / "found", "bvjax")
        assert model.sampler == SamplerConfig(shift=6.0, schedule="diffusers")
        check_model(model)
        convert(
            exported / "theirs",
            tmp_path / "set",
            "bvjax",
            overrides=["sampler.schedule=wan", "sampler.steps=7"],
        )
        assert weights.load_config(tmp_path / "set").sampler == SAMPLER
    finally:
        (tmp_path / "manifest.json").rename(exported / "theirs" / "manifest.json")


def test_files_of_an_export(exported):
    folder = exported / "theirs"
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "WanPipeline"
    assert index["transformer"] == ["diffusers", "WanTransformer3DModel"]
    for name in set(index) - {"_class_name"}:
        assert (folder / name).is_dir(), name
    scheduler = json.loads((folder / pipeline.SCHEDULER).read_text())
    assert (scheduler["_class_name"], scheduler["flow_shift"]) == ("UniPCMultistepScheduler", 6.0)
    assert (folder / "tokenizer" / "tokenizer_config.json").is_file()


def with_sampler(**changes):
    plain = dataclasses.replace(TINY.dit, similarity_keys=False)
    return dataclasses.replace(
        TINY, dit=plain, sampler=dataclasses.replace(TINY.sampler, **changes)
    )


def test_files_of_other_models():
    few = with_sampler(kind="few_step", shift=5.0)
    assert pipeline.files(few, None)[pipeline.SCHEDULER]["stochastic_sampling"] is True
    euler = pipeline.files(with_sampler(kind="euler", shift=2.0), None)
    assert euler[pipeline.SCHEDULER]["shift"] == 2.0
    assert euler["model_index.json"]["scheduler"][1] == "FlowMatchEulerDiscreteScheduler"
    sky = dataclasses.replace(few, dit=dataclasses.replace(few.dit, fps_embedding=True))
    index = pipeline.files(sky, None)["model_index.json"]
    assert index["_class_name"] == "SkyReelsV2DiffusionForcingPipeline"
    folded = dataclasses.replace(few, vae=VAEConfig(patch=2))
    for ours_alone in (TINY, folded):
        assert "model_index.json" not in pipeline.files(ours_alone, None)


def test_parts_alone_are_no_pipeline(exported, tmp_path):
    convert(exported / "theirs" / "vae", tmp_path / "vae", "diffusers")
    assert not (tmp_path / "vae" / "model_index.json").exists()
