"""Manifests of exports: added to, believed only when whole, and not overruled by --preset."""

from __future__ import annotations

import json
import shutil

import pytest

from bvjax import weights
from bvjax.conversion import manifest
from bvjax.conversion.converter import convert
from bvjax.errors import UserError
from tests.bvjax.conversion.conftest import FILES


def test_parts_that_come_one_after_the_other(tiny, exported, tmp_path):
    """The manifest, and with all three the pipeline, are those of one conversion."""
    for target, files in (("wan", set()), ("diffusers", {"scheduler/scheduler_config.json"})):
        one = tmp_path / target
        for part in ("vae", "text", "dit"):
            convert(tiny.weights / f"{part}.safetensors", one, target)
        whole = exported[target]
        names = [p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file()]
        assert set(names) >= files
        for name in names:
            result, expected = (folder / name for folder in (one, whole))
            if name.endswith(".json"):
                assert json.loads(result.read_text()) == json.loads(expected.read_text()), name
            else:
                assert result.read_bytes() == expected.read_bytes(), name
        assert convert(one, tmp_path / f"back-{target}", "bvjax") == tiny.model


def test_a_part_that_is_replaced(exported, tmp_path):
    convert(exported["wan"], tmp_path / "dst", "wan")
    file = exported["wan"] / FILES["wan"]
    with pytest.raises(UserError, match=f"{FILES['wan']} exists; give another folder"):
        convert(file, tmp_path / "dst", "wan", stage="stage2")
    convert(file, tmp_path / "dst", "wan", stage="stage2", overwrite=True)
    stages = {
        part: entry.metadata["stage"] for part, entry in manifest.read(tmp_path / "dst").items()
    }
    assert stages == {"dit": "stage2", "vae": "pretrained", "text": "pretrained"}


def test_a_preset_that_the_manifest_denies(tiny, exported, tmp_path):
    for src, record in ((exported["wan"], "manifest.json"), (tiny.weights, "config.json")):
        match = f"is of the model tiny, as {src / record} says, not of preset wan-1.3b; leave out"
        with pytest.raises(UserError, match=match):
            convert(src, tmp_path / "dst", "bvjax", preset="wan-1.3b")
    with pytest.raises(UserError, match=r"preset wan-1.3b: dim 8 instead of 96 \(it is of tiny\)"):
        convert(exported["diffusers"] / "vae", tmp_path / "dst", "bvjax", preset="wan-1.3b")
    assert not (tmp_path / "dst").exists()


DAMAGED = {
    "needs parts among dit, vae, text": [{}, {"parts": []}, {"parts": {"lora": {}}}],
    "is damaged: dit is no object": [{"parts": {"dit": None}}],
    "is damaged: dit has no model": [{"parts": {"dit": {}}}, {"parts": {"dit": {"model": [1]}}}],
    "is damaged: dit has the stage 'a+'; it can be pre": [{"parts": {"dit": {"stage": "a" * 99}}}],
    "is damaged: dit has a lora that is no list": [{"parts": {"dit": {"lora": "x"}}}],
    "is damaged: dit: dit.dim must be a whole number": [
        {"parts": {"dit": {"model": {"name": "x", "dit": {"dim": "wide"}}}}}
    ],
    "is not a JSON object": [[1]],
}


@pytest.mark.parametrize("match", DAMAGED)
def test_a_damaged_manifest(match, exported, tmp_path):
    """Neither read nor added to."""
    src = tmp_path / "src"
    shutil.copytree(exported["wan"], src)
    for content in DAMAGED[match]:
        (src / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=f"{src / 'manifest.json'} .*{match}"):
            convert(src, tmp_path / "dst", "bvjax")
        (tmp_path / "other").mkdir(exist_ok=True)
        shutil.copy(src / "manifest.json", tmp_path / "other")
        with pytest.raises(UserError, match=match):
            convert(exported["wan"], tmp_path / "other", "wan")
        assert [path.name for path in (tmp_path / "other").iterdir()] == ["manifest.json"]
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize("made", [None, [], {"dit": None}, {"dit": {"stage": 7}}])
def test_a_damaged_record_of_a_weights_folder(made, tiny, tmp_path):
    src = tmp_path / "src"
    shutil.copytree(tiny.weights, src)
    stored = json.loads((src / "config.json").read_text())
    (src / "config.json").write_text(json.dumps(stored | {"made": made}))
    with pytest.raises(UserError, match=r"config.json is damaged: "):
        convert(src, tmp_path / "dst", "wan")
    assert not (tmp_path / "dst").exists()


def test_the_parts_of_a_weights_folder_stay(tiny, exported, tmp_path):
    for part in ("dit", "vae", "text"):
        convert(tiny.weights / f"{part}.safetensors", tmp_path, "bvjax", stage="stage1")
        stages = [weights.load_made(tmp_path, p).get("stage") for p in weights.PARTS]
        assert stages.count("stage1") == 1 + weights.PARTS.index(part)
    assert weights.load_config(tmp_path) == tiny.model
