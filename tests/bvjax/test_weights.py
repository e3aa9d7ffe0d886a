"""Safetensors: round trip, strictness, damage; the weights folder."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from bvjax import weights
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.presets import get_preset
from bvjax.tensor_files import TensorInfo
from bvjax.weights import load_tensors, save_tensors


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return {
        "b": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)},
        "a": {"bias": rng.normal(size=4).astype(np.float32), "scalar": np.float32(2.0)},
    }


def like(params):
    return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, params))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_round_trip(tmp_path, params, dtype):
    save_tensors(tmp_path / "w.safetensors", params, {"part": "vae"}, dtype)
    loaded = load_tensors(tmp_path / "w.safetensors", like(params))
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(loaded), strict=True):
        assert y.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(x).astype(jnp.dtype(dtype)).astype(np.float32), y)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def layered():
    rng = np.random.default_rng(1)
    blocks = {"ffn": {"kernel": rng.normal(size=(3, 8, 4)).astype(np.float32)}}
    return {"blocks": blocks, "head": {"bias": rng.normal(size=16).astype(np.float32)}}


def test_layers_are_apart_on_disk_and_stacked_in_memory(tmp_path):
    params = layered()
    save_tensors(tmp_path / "w.safetensors", params)
    found = load_file(tmp_path / "w.safetensors")
    assert set(found) == {*(f"blocks/{i}/ffn/kernel" for i in range(3)), "head/bias"}
    np.testing.assert_array_equal(
        found["blocks/2/ffn/kernel"], params["blocks"]["ffn"]["kernel"][2]
    )
    loaded = load_tensors(tmp_path / "w.safetensors", like(params))
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    shorter = jax.eval_shape(
        lambda: {**params, "blocks": {"ffn": {"kernel": jnp.zeros((2, 8, 4))}}}
    )
    with pytest.raises(UserError, match="extra blocks/2/ffn/kernel"):
        load_tensors(tmp_path / "w.safetensors", shorter)


def test_everything_wrong_is_listed_at_once(tmp_path, params):
    path = tmp_path / "w.safetensors"
    stored = {"a": {"bias": params["a"]["bias"][:2]}, "b": params["b"], "c": np.ones(1)}
    save_tensors(path, stored)
    with pytest.raises(UserError) as error:
        load_tensors(path, like(params))
    message = str(error.value)
    for part in ("missing a/scalar", "extra c", "a/bias has shape [2] instead of [4]"):
        assert part in message
    assert "kernel" not in message and "\n" not in message


def test_integers_are_not_weights(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.ones(3, np.int32)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="a has dtype int32"):
        load_tensors(tmp_path / "w.safetensors", {"a": jax.ShapeDtypeStruct((3,), jnp.float32)})


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_truncated_file_is_refused(tmp_path, params, keep):
    path = tmp_path / "w.safetensors"
    save_tensors(path, params)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="is damaged or not a safetensors file"):
        load_tensors(path, like(params))


def test_missing_file_and_unknown_dtype(tmp_path, params):
    with pytest.raises(UserError, match="there is no weights file"):
        load_tensors(tmp_path / "none.safetensors", like(params))
    with pytest.raises(UserError, match="'int8'; it can be float32"):
        save_tensors(tmp_path / "w.safetensors", params, dtype="int8")
    huge = {"a": np.float32([1e9])}
    with pytest.raises(UserError, match="'a' have values that are not finite in float16"):
        save_tensors(tmp_path / "w.safetensors", huge, dtype="float16")
    assert not list(tmp_path.iterdir())
    save_tensors(tmp_path / "w.safetensors", huge)
    with pytest.raises(UserError, match="not finite .* in a when read as float16"):
        load_tensors(tmp_path / "w.safetensors", like(huge), dtype="float16")


# ---- the folder; networks are replaced by two small trees

SHAPES = {
    "vae": lambda m: {"k": jax.ShapeDtypeStruct((m.vae.dim,), jnp.float32)},
    "text": lambda m: {"k": jax.ShapeDtypeStruct((m.text.dim,), jnp.float32)},
    "dit": lambda m: {"k": jax.ShapeDtypeStruct((m.dit.dim,), jnp.float32)},
}


@pytest.fixture
def model(monkeypatch) -> ModelConfig:
    monkeypatch.setattr(weights, "shapes", lambda model, part: SHAPES[part](model))
    return get_preset("mini")


def filled(model, part, value=1.0):
    return {part: {"k": np.full(SHAPES[part](model)["k"].shape, value, np.float32)}}


def test_parts_are_added_one_after_the_other(tmp_path, model):
    trained = dataclasses.replace(model.vae, latent_mean=(0.5,) * model.vae.z_dim)
    with_vae = dataclasses.replace(model, vae=trained)
    weights.save_weights(tmp_path, with_vae, filled(model, "vae", 3.0), meta={"seed": 1})
    tokenizer = tmp_path / "t.model"
    tokenizer.write_bytes(b"pieces")
    weights.save_weights(tmp_path, model, filled(model, "text"), tokenizer=tokenizer)
    wider = dataclasses.replace(model, dit=dataclasses.replace(model.dit, dim=48))
    weights.save_weights(tmp_path, wider, filled(wider, "dit"), meta={"seed": 2})

    loaded, params = weights.load_weights(tmp_path)
    assert loaded == dataclasses.replace(with_vae, dit=wider.dit)
    np.testing.assert_array_equal(params["vae"]["k"], 3.0)
    assert params["dit"]["k"].shape == (48,)
    assert (tmp_path / weights.TOKENIZER).read_bytes() == b"pieces"
    made = json.loads((tmp_path / "config.json").read_text())["made"]
    assert made == {"vae": {"seed": 1}, "text": {}, "dit": {"seed": 2}}


def test_only_the_parts_asked_for_have_to_be_there(tmp_path, model):
    weights.save_weights(tmp_path, model, filled(model, "vae"))
    assert set(weights.load_weights(tmp_path, ["vae"])[1]) == {"vae"}
    with pytest.raises(UserError, match=r"there is no weights file .*dit.safetensors"):
        weights.load_weights(tmp_path)


def test_bad_folders_are_refused(tmp_path, model):
    with pytest.raises(UserError, match="is not a weights folder: it has no config.json"):
        weights.load_weights(tmp_path)
    with pytest.raises(UserError, match="unknown parts unet"):
        weights.save_weights(tmp_path, model, {"unet": {}})
    weights.save_weights(tmp_path, model, filled(model, "vae"))
    config = tmp_path / "config.json"
    text = config.read_text()
    config.write_text(text[:100])
    with pytest.raises(UserError, match="config.json is not valid JSON"):
        weights.load_config(tmp_path)
    config.write_text(text.replace('"z_dim"', '"zdim"'))
    with pytest.raises(UserError, match="'vae.zdim'; the nearest is 'vae.z_dim'"):
        weights.load_config(tmp_path)
    config.write_text('{"model": {}}')
    with pytest.raises(UserError, match="exactly the keys model and made"):
        weights.load_config(tmp_path)


def test_shapes_follow_the_configuration():
    model = get_preset("mini")
    small = dataclasses.replace(model, vae=dataclasses.replace(model.vae, dim=4, num_res_blocks=1))
    flat = weights.flatten(weights.shapes(small, "vae"))
    assert flat["encoder/conv1/kernel"].shape == (3, 3, 3, 3 * 8 * 8, 4)
    assert all(leaf.dtype == jnp.float32 for leaf in flat.values())


def test_long_lists_show_five_and_count():
    found = {f"extra{i:03}": TensorInfo((1,), "float32") for i in range(300)}
    found |= {f"other{i:03}": TensorInfo((2,), "int8") for i in range(99)}
    wanted = {f"gone{i:03}": (1,) for i in range(184)} | {f"other{i:03}": (1,) for i in range(99)}
    missing, extra, shapes, dtypes = weights.mismatches(found, wanted)
    assert missing == "missing gone000, gone001, gone002, gone003, gone004 and 179 more"
    assert extra.endswith("extra004 and 295 more") and shapes.endswith("and 94 more")
    assert max(map(len, (missing, extra, shapes, dtypes))) < 400
