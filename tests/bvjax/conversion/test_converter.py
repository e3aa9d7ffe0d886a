"""Conversion: to the bit there and back, and every kind of bad input refused before anything is written."""

from __future__ import annotations

import json
import shutil
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bvjax import weights
from bvjax.conversion.converter import convert
from bvjax.errors import UserError
from tests.bvjax.conversion.conftest import FILES


def copy(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "src")
    return tmp_path / "src"


def refused(src, tmp_path, match, **options):
    with pytest.raises(UserError, match=match) as error:
        convert(src, tmp_path / "dst", "bvjax", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "dst").exists()
    return str(error.value)


@pytest.mark.parametrize("target", FILES)
def test_there_and_back_to_the_bit(tiny, exported, target, tmp_path):
    model = convert(exported[target], tmp_path / "back", "bvjax")
    assert model == tiny.model
    for part in weights.PARTS:
        before = load_file(tiny.weights / f"{part}.safetensors")
        after = load_file(tmp_path / "back" / f"{part}.safetensors")
        assert before.keys() == after.keys()
        for name in before:
            assert before[name].tobytes() == after[name].tobytes(), name
    names = ("tokenizer.model",)
    for name in names:
        assert (tmp_path / "back" / name).read_bytes() == (tiny.weights / name).read_bytes()
    metadata = weights.load_made(tmp_path / "back", "dit")
    assert metadata["layout"] in ("wan", "diffusers") and metadata["parameters"] > 0
    assert set(metadata["source"]) == {FILES[target].split("/")[-1]}


def test_names_and_axes_of_a_block(tiny, exported):
    ours = load_file(tiny.weights / "dit.safetensors")
    wan = load_file(exported["wan"] / FILES["wan"])
    reference = load_file(exported["diffusers"] / FILES["diffusers"])
    kernel = ours["blocks/1/ffn/0/kernel"]
    np.testing.assert_array_equal(wan["blocks.1.ffn.0.weight"], kernel.T)
    np.testing.assert_array_equal(reference["blocks.1.ffn.net.0.proj.weight"], kernel.T)
    # the affine norm: third in the original, second in diffusers
    np.testing.assert_array_equal(wan["blocks.0.norm3.weight"], ours["blocks/0/norm3/scale"])
    np.testing.assert_array_equal(reference["blocks.0.norm2.weight"], ours["blocks/0/norm3/scale"])
    patch = ours["patch_embedding/kernel"].reshape(16, 1, 2, 2, 32)
    np.testing.assert_array_equal(wan["patch_embedding.weight"], patch.transpose(4, 0, 1, 2, 3))
    assert wan["blocks.0.modulation"].shape == (1, 6, 32)


def test_classes_go_with_what_diffusers_has_none_for(exported):
    """The tiny DiT has similarity keys; its VAE is Wan's."""
    folder = exported["diffusers"]
    config = json.loads((folder / "transformer" / "config.json").read_text())
    assert config["auto_map"] == {"AutoModel": f"transformer_bvjax.{config['_class_name']}"}
    assert (
        f"class {config['_class_name']}("
        in (folder / "transformer/transformer_bvjax.py").read_text()
    )
    assert config["similarity_keys"] and config["preconditioning"] == "none"
    config = json.loads((folder / "vae" / "config.json").read_text())
    assert "auto_map" not in config and config["_class_name"] == "AutoencoderKLWan"
    assert [path.name for path in folder.rglob("*.py")] == ["transformer_bvjax.py"]


def test_other_dtypes_and_stages(tiny, tmp_path):
    convert(tiny.weights, tmp_path / "half", "wan", dtype="bfloat16", stage="stage2")
    convert(tmp_path / "half", tmp_path / "back", "bvjax")
    stored = load_file(tmp_path / "back" / "dit.safetensors")
    assert {x.dtype for x in stored.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert weights.load_made(tmp_path / "back", "dit")["stage"] == "stage2"
    loaded = weights.load_weights(tmp_path / "back", ("dit",))[1]["dit"]
    expected = np.asarray(tiny.params["dit"]["head"]["head"]["kernel"]).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(loaded["head"]["head"]["kernel"], expected.astype(np.float32))


def test_a_sharded_checkpoint_and_one_that_its_index_does_not_describe(exported, tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    result = load_file(exported["wan"] / FILES["wan"])
    names = sorted(result)
    where = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({n: result[n] for n in names if where[n] == file}, folder / file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    shutil.copy(exported["wan"] / "config.json", folder)
    shutil.copy(exported["wan"] / "manifest.json", folder)
    convert(folder, tmp_path / "whole", "wan")
    again = load_file(tmp_path / "whole" / FILES["wan"])
    assert all(np.array_equal(again[name], result[name]) for name in names)
    index.write_text(json.dumps({"weight_map": {n: where[n] for n in names[1:]}}))
    refused(folder, tmp_path, f"do not agree about {names[0]}")


def damage(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_everything_wrong_is_said_at_once(exported, tmp_path):
    src = copy(exported["wan"], tmp_path)

    def change(tensors):
        tensors["stranger"] = np.zeros(3, np.float32)
        tensors["head.head.bias"] = tensors["head.head.bias"][:-1]
        tensors["blocks.1.ffn.2.bias"] = tensors["blocks.1.ffn.2.bias"].astype(np.int32)
        del tensors["blocks.0.norm3.bias"]

    damage(src / FILES["wan"], change)
    message = refused(src, tmp_path, "does not fit the dit")
    for part in (
        "missing blocks.0.norm3.bias",
        "extra stranger",
        "head.head.bias has shape [63] instead of [64]",
        "blocks.1.ffn.2.bias has dtype int32",
    ):
        assert part in message


def test_eight_bit_floats_are_refused(exported, tmp_path):
    src = copy(exported["wan"], tmp_path)
    name = "head.head.weight"
    damage(src / FILES["wan"], lambda t: t.update({name: t[name].astype(ml_dtypes.float8_e4m3fn)}))
    refused(src, tmp_path, f"{name} has dtype float8_e4m3fn, which is not float32")


def test_another_depth(exported, tmp_path):
    src = copy(exported["wan"], tmp_path)
    (src / "manifest.json").unlink()
    config = json.loads((src / "config.json").read_text())
    (src / "config.json").write_text(json.dumps(config | {"num_layers": 30}))
    refused(src, tmp_path, "holds 2 layers but its config.json says 30")
    (src / "config.json").write_text(json.dumps(config))
    refused(
        src, tmp_path, "is not the vae of preset wan-1.3b: dim 8 instead of 96", preset="wan-1.3b"
    )


def test_image_to_video_weights(exported, tmp_path):
    src = copy(exported["wan"], tmp_path)
    (src / "manifest.json").unlink()
    name = "patch_embedding.weight"
    damage(src / FILES["wan"], lambda t: t.update({name: np.zeros((32, 36, 1, 2, 2), np.float32)}))
    refused(src, tmp_path, "takes 36 channels: it is a Wan image-to-video model")


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_file_cut_short(exported, tmp_path, keep):
    src = copy(exported["wan"], tmp_path)
    file = src / "Wan2.1_VAE.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refused(src, tmp_path, "Wan2.1_VAE.safetensors is damaged or not a safetensors file")


def test_files_that_are_no_checkpoints(tiny, exported, tmp_path):
    text = tmp_path / "notes.safetensors"
    text.write_text("not tensors at all, but a text file that was renamed")
    refused(text, tmp_path, "is damaged or not a safetensors file")
    save_file({"something": np.zeros(2, np.float32)}, text)
    refused(text, tmp_path, "no format that bvjax knows; its tensors begin something")
    refused(tmp_path / "nowhere", tmp_path, "there is no checkpoint")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, tmp_path, "holds no checkpoint that bvjax knows")
    for options, match in (
        ({"dtype": "int4"}, "`dtype` is 'int4'; it can be keep"),
        ({"stage": "stage3"}, "`stage` is 'stage3'; it can be pretrained"),
        ({"preset": "wan-2b"}, "no preset 'wan-2b'"),
    ):
        refused(exported["wan"], tmp_path, match, **options)
    with pytest.raises(UserError, match="`to` is 'onnx'; it can be bvjax"):
        convert(tiny.weights, tmp_path / "dst", "onnx")
    with pytest.raises(UserError, match="exists; give another folder, or `overwrite`"):
        convert(exported["wan"], tiny.weights, "bvjax")


@pytest.mark.parametrize("dtype", ["keep", "bfloat16"])
@pytest.mark.parametrize("stored", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_numbers_that_are_none(dtype, stored, exported, tmp_path):
    """Whatever is kept or cast: refused, with the tensor's name, and nothing is left behind."""
    src = copy(exported["wan"], tmp_path)
    for value in (np.nan, -np.inf):

        def change(tensors, value=value):
            tensors["head.head.bias"] = tensors["head.head.bias"].astype(stored)
            tensors["head.head.bias"][5] = value

        damage(src / FILES["wan"], change)
        refused(src, tmp_path, "has values that are not finite .* in head.head.bias", dtype=dtype)


def test_what_fails_leaves_what_was_there(exported, tmp_path):
    src = copy(exported["wan"], tmp_path)
    (tmp_path / "there").mkdir()
    convert(src / "Wan2.1_VAE.safetensors", tmp_path / "there", "bvjax")
    before = {path: path.read_bytes() for path in (tmp_path / "there").iterdir()}

    def change(tensors):
        tensors["head.head.weight"][3, 4] = 1e30

    damage(src / FILES["wan"], change)
    with pytest.raises(
        UserError, match="head.head.weight has values that are not finite in float16"
    ):
        convert(src, tmp_path / "there", "bvjax", dtype="float16", overwrite=True)
    assert {path: path.read_bytes() for path in (tmp_path / "there").iterdir()} == before


def test_places_that_are_none(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder/dit.safetensors").mkdir(parents=True)
    for src, dst, match in (
        (tiny.weights, "", "`dst` is empty; it must be the name of a file or a folder"),
        ("", "dst", "`src` is empty"),
        (tiny.weights, "file", "file is a file; a folder is to be written there"),
        (tiny.weights, "file/deeper/still", "file is a file"),
        (tiny.weights, "folder", "dit.safetensors is a folder; a file is to be written there"),
        (tiny.weights, "a/" + 300 * "b", "b... is a name of 300 bytes; it can have 255"),
        (tiny.weights, "/proc/nowhere", "cannot write to /proc"),
    ):
        with pytest.raises(UserError, match=match):
            convert(src, dst, "bvjax")
    names = sorted(path.name for path in tmp_path.rglob("*"))
    assert names == ["dit.safetensors", "file", "folder"]


def test_files_beside_the_tensors_are_not_replaced_unasked(exported, tmp_path):
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst/config.json").write_text("mine")
    with pytest.raises(UserError, match="dst/config.json exists; give another folder, or `over"):
        convert(exported["wan"], tmp_path / "dst", "wan")
    assert [path.name for path in (tmp_path / "dst").iterdir()] == ["config.json"]


def test_the_tokenizer_inside_an_encoder(tiny, exported, tmp_path):
    """As ComfyUI publishes umT5; without a file beside it."""
    model = (tiny.weights / "tokenizer.model").read_bytes()
    (tmp_path / "src").mkdir()
    file = tmp_path / "src/umt5.safetensors"
    tensors = load_file(exported["wan"] / "models_t5_umt5-xxl-enc.safetensors")
    save_file(tensors | {"spiece_model": np.frombuffer(model, np.uint8)}, file)
    for to, name in (("bvjax", "tokenizer.model"), ("wan", "google/umt5-xxl/spiece.model")):
        convert(file, tmp_path / to, to)
        assert (tmp_path / to / name).read_bytes() == model
    save_file(tensors | {"spiece_model": np.frombuffer(model[:-1], np.uint8)}, file)
    refused(file, tmp_path, "umt5.safetensors is not a SentencePiece model: it is damaged")


def test_a_tokenizer_that_does_not_belong_to_the_encoder(tiny, exported, tmp_path):
    src = copy(exported["wan"], tmp_path)
    (src / "tokenizer.model").write_text("another model's")
    refused(src, tmp_path, "tokenizer.model is not a SentencePiece model")
    convert(src / FILES["wan"], tmp_path / "other", "bvjax")  # a DiT needs none
    assert not (tmp_path / "other/tokenizer.model").exists()
    with pytest.raises(
        UserError, match="tokenizer.json is there already, but tokenizer.model comes"
    ):
        (tmp_path / "other/tokenizer.json").write_text("{}")
        convert(tiny.weights / "text.safetensors", tmp_path / "other", "bvjax")


def test_memory_is_that_of_the_largest_tensor(exported, tmp_path):
    """A file of 85 MB is converted with a few copies of its largest tensor, 6 MB, in memory."""
    src = copy(exported["wan"], tmp_path)
    (src / "manifest.json").unlink()
    (src / "config.json").unlink()
    for name in ("Wan2.1_VAE", "models_t5_umt5-xxl-enc"):
        (src / f"{name}.safetensors").unlink()
    wide, rng = 512, np.random.default_rng(0)
    result = load_file(src / FILES["wan"])

    def widen(array):
        shape = [{32: wide, 192: 6 * wide, 64: 1024}.get(n, n) for n in array.shape]
        return rng.normal(size=shape).astype(np.float32)

    for layer in range(2, 8):
        block = {n: x for n, x in result.items() if n.startswith("blocks.0.")}
        result |= {n.replace(".0.", f".{layer}.", 1): x for n, x in block.items()}
    result = {n: widen(x) for n, x in result.items() if "similarity" not in n}
    result["head.head.weight"] = np.zeros((64, wide), np.float32)
    result["head.head.bias"] = np.zeros(64, np.float32)
    save_file(result, src / FILES["wan"])
    largest, total = (f(x.nbytes for x in result.values()) for f in (max, sum))
    del result
    tracemalloc.start()
    convert(src, tmp_path / "dst", "diffusers", dtype="bfloat16")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * largest + 2**21 < total / 2
