"""Configuration: round trips, strictness, and that the library reads every key."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentences import is_one_line

import bvjax
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.overrides import all_keys, apply_overrides, assignments, from_dict, to_dict
from bvjax.plain_text import shown
from bvjax.presets import MINI, PRESETS, get_preset


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip(name):
    preset = get_preset(name)
    assert from_dict(ModelConfig, to_dict(preset)) == preset


def test_overrides_convert_without_loss():
    model = apply_overrides(
        MINI, ["memory.tau=0.97", "guidance.scale=3", "memory.anchor=false", "rope.mode=local"]
    )
    assert model.memory.tau == 0.97
    assert model.guidance.scale == 3.0
    assert model.memory.anchor is False
    assert model.rope.mode == "local"
    assert apply_overrides(MINI, []) == MINI


@pytest.mark.parametrize("text", ["123", "true", "1.50", "[a]", "None", "blurry, dull", "(" * 500])
def test_text_may_look_like_something_else(text):
    assert apply_overrides(MINI, [f"guidance.negative={text}"]).guidance.negative == text
    assert apply_overrides(MINI, ['guidance.negative="quoted"']).guidance.negative == "quoted"


@given(st.text(max_size=30), st.sampled_from(all_keys(ModelConfig)))
def test_any_value_is_taken_or_refused_in_one_sentence(text, key):
    try:
        apply_overrides(MINI, [f"{key}={text}"])
    except UserError as error:
        assert is_one_line(shown(str(error)))


def test_values_that_only_fit_together_change_together():
    both = [
        "vae.dim_mult=[1,1]",
        "vae.temporal_downsample=[True]",
        "vae.spatial_downsample=[False]",
    ]
    assert apply_overrides(MINI, both).vae.dim_mult == (1, 1)
    with pytest.raises(UserError, match="vae.spatial_downsample needs one value"):
        apply_overrides(MINI, both[:2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory.tua=1", "no configuration key 'memory.tua'; the nearest is 'memory.tau'"),
        ("memry.tau=1", "the nearest is 'memory.tau'"),
        ("memory=1", "no configuration key 'memory'"),
        ("memory.tau", "takes section.key=value"),
        ("memory.tau=high", "memory.tau must be a number, not 'high'"),
        ("memory.slots=1.5", "memory.slots must be a whole number"),
        ("memory.anchor=1", "memory.anchor must be true or false"),
        (
            "guidance.scale=" + "9" * 400,
            "guidance.scale is a number of 400 digits, which is too large",
        ),
        ("guidance.negative=blur \udcff", "guidance.negative has half a character"),
        ("dit.patch=[1,2]", "dit.patch must have 3 values, not 2"),
    ],
)
def test_bad_overrides_are_one_sentence(text, message):
    with pytest.raises(UserError, match=message) as caught:
        apply_overrides(MINI, [text])
    assert "\n" not in str(caught.value)


def test_unknown_keys_of_a_file_are_refused():
    values = to_dict(MINI)
    values["retrieval"]["top_l"] = 2
    with pytest.raises(UserError, match="retrieval.top_l"):
        from_dict(ModelConfig, values)


def test_an_unknown_preset_lists_the_legal_ones():
    with pytest.raises(UserError, match="mini, wan-1.3b, wan-14b, self-forcing"):
        get_preset("wan-2")


def test_every_key_is_read_by_the_library():
    """Each leaf of ModelConfig is accessed as an attribute somewhere outside the files that define it."""
    root = Path(bvjax.__file__).parent
    source = "\n".join(
        path.read_text()
        for path in root.rglob("*.py")
        if path.name not in ("config.py", "presets.py", "overrides.py")
    )
    unread = [
        key for key in all_keys(ModelConfig) if not re.search(rf"\.{key.split('.')[-1]}\b", source)
    ]
    assert not unread


def test_a_mapping_is_written_as_on_the_command_line():
    written = {"memory.tau": np.float32(0.5), "retrieval.kind": "rolling", "dit.patch": [1, 2, 2]}
    written |= {"chunk.frames": np.int64(8), "memory.anchor": False, "guidance.negative": "'a' = b"}
    model = apply_overrides(ModelConfig(name="x"), assignments(written))
    assert (model.memory.tau, model.retrieval.kind, model.dit.patch) == (0.5, "rolling", (1, 2, 2))
    assert (model.chunk.frames, model.memory.anchor, model.guidance.negative) == (
        8,
        False,
        "'a' = b",
    )
    assert assignments(["memory.tau=0.5"]) == ("memory.tau=0.5",)
