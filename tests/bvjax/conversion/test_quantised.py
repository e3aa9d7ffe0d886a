"""Scaled 8-bit floats are multiplied out; what is scaled in another way is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bvjax.conversion.converter import convert
from bvjax.conversion.quantised import dequantise
from bvjax.conversion.tensors import Tensors
from bvjax.errors import UserError
from bvjax.tensor_files import TensorInfo
from tests.bvjax.conversion.conftest import FILES

FP8 = (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)


def opened(arrays):
    infos = {name: TensorInfo(x.shape, x.dtype.name) for name, x in arrays.items()}
    return dequantise(Tensors(infos, arrays.__getitem__), Path("x.safetensors"))


@pytest.mark.parametrize("kind", FP8)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (3, 1)])
def test_values(kind, shape):
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 2.0, shape).astype(np.float32)
    stored = rng.normal(size=(3, 4)).astype(kind)
    result = opened({"a.weight": stored, "a.scale_weight": scale})
    assert result.infos == {"a.weight": TensorInfo((3, 4), "float32")}
    expected = stored.astype(np.float32) * (scale.reshape(-1, 1) if scale.size > 1 else scale)
    np.testing.assert_array_equal(result.read("a.weight"), expected)


@pytest.mark.parametrize("style", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("dtype", ["keep", "bfloat16"])
def test_a_dit_as_comfyui_publishes_it(style, dtype, exported, tmp_path):
    """Under "model.diffusion_model.", its linear layers in 8 bits with one scale each."""
    plain = load_file(exported["wan"] / FILES["wan"])
    stored, expected = {}, {}
    for name, array in plain.items():
        stored[f"model.diffusion_model.{name}"] = expected[name] = array
        if array.ndim == 2 and name.endswith(".weight") and name.startswith("blocks"):
            scale = np.float32(np.abs(array).max() / 448)
            eight = (array / scale).astype(ml_dtypes.float8_e4m3fn)
            layer = f"model.diffusion_model.{name.removesuffix('.weight')}"
            stored[f"{layer}.weight"], stored[f"{layer}.{style}"] = eight, np.array(scale)
            stored[f"{layer}.scale_input"] = np.ones((), np.float32)
            expected[name] = eight.astype(np.float32) * scale
            np.testing.assert_allclose(expected[name], array, atol=0.07 * np.abs(array).max())
    stored["model.diffusion_model.scaled_fp8"] = np.zeros(2, ml_dtypes.float8_e4m3fn)
    for name in ("config.json", "manifest.json"):
        (tmp_path / name).write_bytes((exported["wan"] / name).read_bytes())
    save_file(stored, tmp_path / "wan_fp8_scaled.safetensors")
    convert(tmp_path / "wan_fp8_scaled.safetensors", tmp_path / "dst", "wan", dtype=dtype)
    kind = np.float32 if dtype == "keep" else ml_dtypes.bfloat16
    result = load_file(tmp_path / "dst" / FILES["wan"])
    assert result.keys() == expected.keys()
    for name, array in result.items():
        np.testing.assert_array_equal(array, expected[name].astype(kind), err_msg=name)


ONE = np.ones(1, np.float32)
EIGHT = np.zeros((4, 6), FP8[0])
BYTES = lambda text: np.frombuffer(text.encode(), np.uint8)


@pytest.mark.parametrize("arrays, match", [
    ({"a.scale_weight": ONE}, "a.scale_weight is the scale of no tensor a.weight"),
    ({"a.weight": EIGHT, "a.scale_weight": ONE, "a.weight_scale": ONE}, "of no tensor"),
    ({"a.weight": EIGHT, "a.weight_scale": np.ones((2, 3), np.float32)}, "scales of blocks are not read"),
    ({"a.weight": EIGHT, "a.weight_scale": np.ones(6, np.float32)}, r"has shape \[6\]; scales of blocks"),
    ({"a.weight": np.zeros((4, 6), np.int8), "a.weight_scale": ONE}, "is not floating"),
    ({"a.weight": EIGHT, "a.comfy_quant": BYTES('{"format": "nvfp4"}')}, "of the format 'nvfp4'"),
    ({"a.weight": EIGHT, "a.comfy_quant": BYTES("{")}, "a.comfy_quant is not valid JSON"),
    ({"a.weight": EIGHT, "a.comfy_quant": BYTES("[1]")}, r"of the format \[1\]"),
])  # fmt: skip
def test_what_is_refused(arrays, match):
    with pytest.raises(UserError, match=f"x.safetensors.*{match}"):
        opened(arrays)


def test_a_format_by_name():
    format_tensor = BYTES(json.dumps({"format": "float8_e4m3fn"}))
    result = opened({"a.weight": EIGHT, "a.weight_scale": ONE, "a.comfy_quant": format_tensor})
    assert set(result.infos) == {"a.weight"}


def test_without_scales_nothing_changes():
    """8-bit floats on their own are refused later, by their dtype."""
    assert opened({"a.weight": EIGHT}).infos == {"a.weight": TensorInfo((4, 6), "float8_e4m3fn")}
