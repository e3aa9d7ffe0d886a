"""Published checkpoints are known by their tensors: names and shapes alone, nothing is loaded."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from bvjax.conversion import architecture, formats
from bvjax.conversion.converter import identify
from bvjax.conversion.sources import Source, UnknownFormat
from bvjax.conversion.sources import identify as format_of
from bvjax.conversion.tensors import Tensors
from bvjax.errors import UserError
from bvjax.presets import get_preset
from bvjax.tensor_files import TensorInfo

SIZES = {"wan-1.3b": 1_418_996_800, "wan-14b": 14_288_491_584, "skyreels-1.3b": 1_435_525_696}


def source(model, part, format_name, branch=""):
    specs = formats.specs(model, part, format_name)
    infos = {spec.external_name: TensorInfo(spec.external_shape, "bfloat16") for spec in specs}
    return Source(
        Path("model.safetensors"), part, format_name, (), Tensors(infos, None), {}, branch
    )


@pytest.mark.parametrize("format_name", ["wan", "diffusers"])
@pytest.mark.parametrize("name", SIZES)
def test_full_size_dits(name, format_name):
    preset = get_preset(name)
    result = source(preset, "dit", format_name)
    assert sum(math.prod(info.shape) for info in result.tensors.infos.values()) == SIZES[name]
    assert format_of(result.tensors.infos, result.path) == ("dit", format_name)
    model = identify([result])
    assert (model.name, model.dit) == (name, preset.dit)


def test_vae_and_text_of_full_size():
    preset = get_preset("wan-1.3b")
    for format_name in ("wan", "diffusers"):
        vae = source(preset, "vae", format_name)
        assert sum(math.prod(i.shape) for i in vae.tensors.infos.values()) == 126_892_531
        assert architecture.vae_config(vae) == preset.vae
    for format_name in ("wan", "transformers"):
        text = source(preset, "text", format_name)
        assert sum(math.prod(i.shape) for i in text.tensors.infos.values()) == 5_680_910_336
        assert architecture.text_config(text) == preset.text


def test_a_training_checkpoint_of_self_forcing():
    result = source(get_preset("wan-1.3b"), "dit", "wan", branch="generator_ema")
    assert identify([result]).name == "self-forcing"
    assert identify([result], preset="wan-1.3b").name == "wan-1.3b"


def test_of_no_format():
    with pytest.raises(UnknownFormat, match="its tensors begin a"):
        format_of({"a": TensorInfo((1,), "float32")}, Path("x"))


def test_parts_that_do_not_belong_together():
    preset = get_preset("wan-1.3b")
    narrow = dataclasses.replace(preset, text=dataclasses.replace(preset.text, dim=512))
    with pytest.raises(UserError, match="width 4096, the text encoder gives 512"):
        identify([source(preset, "dit", "wan"), source(narrow, "text", "wan")])


def test_no_heads_without_a_config():
    preset = get_preset("wan-1.3b")
    odd = dataclasses.replace(preset, dit=dataclasses.replace(preset.dit, dim=96, num_heads=2))
    with pytest.raises(UserError, match="no config.json to say how many heads its width 96 has"):
        identify([source(odd, "dit", "wan")])


WORDS = {
    "num_heads": ("dit", [0, -1, 1.5, True, "12", [12], {}]),
    "eps": ("dit", [0, "small", [1e-6], -1.0]),
    "preconditioning": ("dit", [1, ["none"]]),
    "latents_correlation": ("dit", ["x", [1, "x"], 5, [True]]),
    "latents_spread": ("dit", ["x", [1, "x"], [[1.0]], 5, [True]]),
    "latents_mean": ("vae", [3, "0", [None], {"0": 1}]),
    "fold": ("vae", [0, 0.5, [2]]),
    "relative_attention_max_distance": ("text", [0, -3, "far", {}]),
}


@pytest.mark.parametrize("name", WORDS)
def test_what_a_config_of_strangers_says(name):
    part, values = WORDS[name]
    result = source(get_preset("wan-1.3b"), part, "wan")
    for value in values:
        changed_source = dataclasses.replace(result, config={name: value})
        with pytest.raises(UserError, match=f"the config.json of model.safetensors has {name} "):
            identify([changed_source])


@pytest.mark.parametrize(
    "shape, match",
    [
        ((0, 16, 1, 2, 2), "patch_embedding.weight has shape .*, which is empty"),
        ((1536, 16, 1, 2), "patch_embedding.weight has shape .*, not 5 axes"),
    ],
)
def test_sizes_that_no_network_has(shape, match):
    result = source(get_preset("wan-1.3b"), "dit", "wan")
    infos = result.tensors.infos | {"patch_embedding.weight": TensorInfo(shape, "float32")}
    with pytest.raises(UserError, match=match):
        identify([dataclasses.replace(result, tensors=Tensors(infos, None))])


def test_a_layer_that_is_missing():
    """Whatever numbers stand in names, no more layers are looked for than there are."""
    result = source(get_preset("wan-1.3b"), "dit", "wan")
    last = {n.replace(".29.", ".999999."): i for n, i in result.tensors.infos.items()}
    with pytest.raises(UserError, match="not a whole dit: of its layers number 29 is missing"):
        identify([dataclasses.replace(result, tensors=Tensors(last, None))])
