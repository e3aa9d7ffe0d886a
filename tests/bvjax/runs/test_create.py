"""Refusals before a run begins, and a run that is begun a second time."""

import dataclasses

import pytest

from bvjax.errors import UserError
from bvjax.media.video_io import read_video
from bvjax.runs.create import create_run
from bvjax.runs.execute import execute, is_finished
from bvjax.runs.run_dir import RunDir
from bvjax.story import Story
from tests.bvjax.runs.conftest import copy, latents


def test_begin_refuses(bundle, story, tiny, tmp_path):
    for change, says in (
        ({"model": tiny.variant(memory={"tau": 1.5})}, "memory.tau is 1.5"),
        ({"model": tiny.variant(chunk={"height": 33})}, "nearest is 32"),
        ({"model": tiny.variant(sampler={"steps": 0})}, "sampler.steps is 0"),
        ({"model": tiny.variant(guidance={"bank": "three"})}, "one, two"),
        ({"model": tiny.variant(noise={"shuffle": -1})}, "noise.shuffle is -1"),
        ({"model": tiny.variant(dit={"num_layers": 3})}, "dit.num_layers is 2 in these weights"),
        ({"story": Story(("Pip waves. " * 40,))}, "caption 1 has .* tokens"),
        ({"model": tiny.variant(retrieval={"kind": "oracle"})}, "only an evaluation has"),
        ({"seed": -1}, "the seed is -1"),
        ({"scale": 0}, "the scale is 0; at 32x32 pixels it can be 1 to 186"),
        ({"scale": 187}, "the scale is 187"),
        (
            {"model": tiny.variant(guidance={"negative": "Pip " * 90})},
            "the negative prompt .* has ",
        ),
        ({"chunks": 9}, "this story has 1 to 5"),
        ({"image": tmp_path / "missing.png"}, "No such file"),
        ({"model": tiny.variant(chunk={"history": "both"})}, "pixels, latents"),
        ({"model": tiny.variant(sampler={"schedule": "sd3"})}, "wan, diffusers"),
        ({"model": tiny.variant(sampler={"history_noise": 1000.0})}, "below 1000"),
        ({"model": tiny.variant(sampler={"history_noise": 20.0})}, "use overlap or joined"),
        ({"model": tiny.variant(sampler={"ar_step": -1})}, "sampler.ar_step is -1"),
        ({"model": tiny.variant(sampler={"causal_block": 0})}, "sampler.causal_block is 0"),
        ({"model": tiny.variant(sampler={"causal_block": 4})}, "divide the 2 latent frames"),
        (
            {"model": tiny.variant(sampler={"kind": "few_step", "ar_step": 1})},
            "'few_step' takes neither",
        ),
        (
            {
                "model": tiny.variant(
                    chunk={"first": "joined"},
                    memory={"capacity": 8},
                    sampler={"ar_step": 1, "causal_block": 2},
                ),
                "image": tmp_path / "missing.png",
            },
            "an image as the first frame",
        ),
    ):
        arguments = {"model": bundle.model, "story": story, "out": tmp_path / "run"} | change
        with pytest.raises(UserError, match=says):
            create_run(bundle, **arguments)
    assert not (tmp_path / "run").exists()


def test_another_scale_is_applied_to_a_run(finished, bundle, story, tmp_path):
    path, before = copy(finished, tmp_path), latents(finished)
    begin = lambda scale: create_run(bundle, bundle.model, story, path, seed=5, scale=scale)
    with pytest.raises(UserError, match="the scale is 300"):
        begin(300)
    begin(None).close()
    with RunDir.open(path) as run:
        assert run.settings.scale == 8 and is_finished(run)
    with begin(2) as run:
        assert not is_finished(run)
        list(execute(run, bundle))
        assert is_finished(run)
    assert read_video(path / "video.mp4")[0].shape == (41, 64, 64, 3) and latents(path) == before
    with begin(None) as run:
        assert run.settings.scale == 2


def test_a_sampler_that_the_weights_were_not_made_for(bundle, tmp_path):
    distilled = dataclasses.replace(bundle, stage="few-step")
    with pytest.raises(UserError, match="sampler.kind must be few_step, not unipc"):
        create_run(distilled, bundle.model, Story("", ("Pip waves.",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pretrained_weights_with_a_memory_are_warned_of(bundle, story, tmp_path, caplog):
    plain = dataclasses.replace(bundle, stage="pretrained")
    create_run(plain, bundle.model, story, tmp_path / "run").close()
    (warning,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "never trained with a memory of earlier chunks" in warning


def test_cuts_are_settings_of_a_run(bundle, story, tiny, tmp_path):
    cut = dataclasses.replace(story, cuts=(2, 4))
    with create_run(bundle, bundle.model, cut, tmp_path / "run") as run:
        assert run.settings.cuts == (3, 5) and run.settings.limited(4).cuts == (3,)
    with RunDir.open(tmp_path / "run") as run:
        assert run.settings.cuts == (3, 5)
    with pytest.raises(UserError, match=r"its shots begin at chunks \[3, 5\], not \[\]"):
        create_run(bundle, bundle.model, story, tmp_path / "run")
    with pytest.raises(UserError, match="the story has cuts, which policy lct does not make"):
        model = tiny.variant(policy={"name": "lct", "window": 4})
        create_run(bundle, model, cut, tmp_path / "other")
    stored = (tmp_path / "run" / "config.json").read_text()
    (tmp_path / "run" / "config.json").write_text(
        stored.replace('"cuts": [\n    3,', '"cuts": [\n    1,')
    )
    with pytest.raises(UserError, match=r"cuts is \[1, 5\]; with 5 chunks it can have 2 to 5"):
        RunDir.open(tmp_path / "run")
