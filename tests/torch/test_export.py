"""Exports are read by diffusers and transformers themselves, and come back to the bit."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import zipfile

import jax
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

from bvjax import weights
from bvjax.config import DiTConfig, ModelConfig, SamplerConfig, TextConfig, VAEConfig
from bvjax.conversion.converter import convert
from bvjax.errors import UserError
from bvjax.nets import vae
from bvjax.nets.dit import WanDiT
from bvjax.nets.text import UMT5Encoder
from tests.conftest import make_tokenizer
from tests.golden import recipe
from tests.torch import builders, test_pipeline
from tests.torch.builders import difference, size, to_numpy, to_torch

MODEL = ModelConfig(
    name="wan-shaped",
    vae=VAEConfig(dim=8, dim_mult=(1, 2, 2, 2), num_res_blocks=1),
    text=TextConfig(vocab_size=110, dim=12, num_layers=2, num_heads=2, head_dim=6, ffn_dim=24),
    dit=DiTConfig(dim=36, num_heads=3, num_layers=2, ffn_dim=50, freq_dim=32),
    sampler=SamplerConfig(steps=4, shift=3.0),
)
NAMES = {
    "wan": {
        "dit": "diffusion_pytorch_model.safetensors",
        "vae": "Wan2.1_VAE.safetensors",
        "text": "models_t5_umt5-xxl-enc.safetensors",
    },
    "diffusers": {
        "dit": "transformer/diffusion_pytorch_model.safetensors",
        "vae": "vae/diffusion_pytorch_model.safetensors",
        "text": "text_encoder/model.safetensors",
    },
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{"bvjax", "diffusers", "wan": the model's folder in that layout}."""
    root = tmp_path_factory.mktemp("export")
    params = {part: recipe.params(MODEL, part) for part in weights.PARTS}
    weights.save_weights(root / "bvjax", MODEL, params, tokenizer=make_tokenizer(root))
    for target in NAMES:
        convert(root / "bvjax", root / target, target)
    return {name: root / name for name in ("bvjax", *NAMES)} | {"params": params}


def same(a, b) -> bool:
    """Are two weights folders the same to the bit."""
    stored = [
        [load_file(folder / f"{part}.safetensors") for part in weights.PARTS] for folder in (a, b)
    ]
    return weights.load_config(a) == weights.load_config(b) and all(
        x.keys() == y.keys() and all(x[n].dtype == y[n].dtype and x[n].equal(y[n]) for n in x)
        for x, y in zip(*stored, strict=True)
    )


# --- read by their libraries ----------------------------------------------------------


def test_the_transformer(folders, record_parity):
    theirs = WanTransformer3DModel.from_pretrained(folders["diffusers"] / "transformer").eval()
    latents = recipe.uniform("latents", (2, 3, 2, 6, 16))
    text, t = recipe.uniform("text", (2, 5, 12)), np.float32([811.0, 40.0])
    grid = np.stack(np.meshgrid(*map(np.arange, (3, 1, 3)), indexing="ij"), -1).reshape(1, 1, -1, 3)
    apply = jax.jit(WanDiT(MODEL.dit, 12).apply)
    given = (latents[:, None], t[:, None] / 1000, text[:, None], grid.repeat(2, 0))
    ours = apply({"params": folders["params"]["dit"]}, *given)[0][:, 0]
    with torch.no_grad():
        out = theirs(to_torch(latents), torch.from_numpy(t), torch.from_numpy(text)).sample
    want = to_numpy(out)
    assert size(want) > 1
    error = difference(ours, want)
    record_parity("export of the DiT", "its `from_pretrained`", error, 5e-5, size(want))


def test_the_vae(folders, record_parity):
    theirs = AutoencoderKLWan.from_pretrained(folders["diffusers"] / "vae").eval()
    params, frames = folders["params"]["vae"], recipe.uniform("video", (1, 5, 8, 24, 3)) / 2
    mean = np.float32(MODEL.vae.latent_mean)
    ours = jax.jit(functools.partial(vae.encode, config=MODEL.vae))(params, frames=frames)
    with torch.no_grad():
        found = to_numpy(theirs.encode(to_torch(frames)).latent_dist.mode())
        want = (found - np.float32(theirs.config.latents_mean)) / theirs.config.latents_std
        error = difference(ours, want)
        record_parity("export of the VAE, encode", "its `from_pretrained`", error, 1e-5, size(want))
        raw = want * np.float32(MODEL.vae.latent_std) + mean
        video = to_numpy(theirs.decode(to_torch(np.float32(raw))).sample)
    ours = jax.jit(functools.partial(vae.decode, config=MODEL.vae))(params, latents=ours)
    error = difference(ours, video)
    record_parity("export of the VAE, decode", "its `from_pretrained`", error, 2e-5, size(video))


def test_the_text_encoder(folders, record_parity):
    theirs, report = UMT5EncoderModel.from_pretrained(
        folders["diffusers"] / "text_encoder", output_loading_info=True
    )
    assert not any(report.values()), report
    ids = np.random.default_rng(0).integers(0, 110, (2, 20)).astype(np.int32)
    mask = np.arange(20) < np.array([[20], [7]])
    with torch.no_grad():
        out = theirs.eval()(torch.from_numpy(ids).long(), torch.from_numpy(mask).long())
    want = np.where(mask[..., None], out.last_hidden_state.numpy(), 0)
    ours = jax.jit(UMT5Encoder(MODEL.text).apply)({"params": folders["params"]["text"]}, ids, mask)
    error = difference(ours, want)
    record_parity("export of umT5", "its `from_pretrained`", error, 2e-5, size(want))


def test_the_whole_pipeline(folders, tmp_path, record_parity):
    """`WanPipeline.from_pretrained` of an export makes the video that the weights make here."""
    pipeline = WanPipeline.from_pretrained(folders["diffusers"])
    pipeline.set_progress_bar_config(disable=True)
    config = pipeline.scheduler.config
    assert (config.flow_shift, config.use_flow_sigmas) == (3.0, True)
    told = ("sampler.schedule=diffusers", *test_pipeline.SETTINGS)  # what a scheduler cannot say
    convert(folders["bvjax"], tmp_path / "same", "bvjax", overrides=told)
    test_pipeline.compare(pipeline, tmp_path / "same", "export of a pipeline", record_parity)
    pipeline.save_pretrained(tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "back", "bvjax", overrides=builders.PLAIN)
    assert weights.load_config(tmp_path / "back").sampler.schedule == "diffusers"


# --- names of the original layout -----------------------------------------------------


@pytest.mark.parametrize(
    "part, translate",
    [
        ("dit", single_file_utils.convert_wan_transformer_to_diffusers),
        ("vae", single_file_utils.convert_wan_vae_to_diffusers),
    ],
)
def test_names_of_the_original_layout(part, translate, tmp_path, record_parity):
    """diffusers' own translation of our export into that layout is our export into its own."""
    # its VAE's names are those of two blocks a level, as published
    model = dataclasses.replace(MODEL, vae=VAEConfig(dim=4))
    weights.save_weights(tmp_path / "ours", model, {part: recipe.params(model, part)})
    for target in NAMES:
        convert(tmp_path / "ours", tmp_path / target, target)
    translated = translate(load_file(tmp_path / "wan" / NAMES["wan"][part]))
    ours = load_file(tmp_path / "diffusers" / NAMES["diffusers"][part])
    assert translated.keys() == ours.keys()
    error = max(difference(translated[name], ours[name]) for name in ours)
    name = f"names of the original layout, {'DiT' if part == 'dit' else 'VAE'}"
    record_parity(name, "diffusers' `from_single_file`", error, 0)


# --- there and back -------------------------------------------------------------------


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("manifest", [True, False], ids=["told", "found out"])
def test_back_from_pytorch_to_the_bit(folders, target, manifest, tmp_path, record_parity):
    """Read into PyTorch, written by it, and converted back, with our manifest and without."""
    shutil.copytree(folders[target], tmp_path / "there")
    for name in NAMES[target].values():
        tensors = load_file(tmp_path / "there" / name)
        save_file(tensors, tmp_path / "there" / name, {"format": "pt"})
    overrides = ()
    if not manifest:
        (tmp_path / "there" / "manifest.json").unlink()
        overrides = (
            *builders.PLAIN,
            "sampler.schedule=wan",
            "sampler.shift=3.0",
            "sampler.steps=4",
        )
    model = convert(tmp_path / "there", tmp_path / "back", "bvjax", overrides=overrides)
    if manifest:
        assert same(folders["bvjax"], tmp_path / "back")
    assert (model.dit, model.vae, model.sampler) == (MODEL.dit, MODEL.vae, MODEL.sampler)
    for part in weights.PARTS:
        a, b = (load_file(f / f"{part}.safetensors") for f in (folders["bvjax"], tmp_path / "back"))
        error = max(difference(a[name], b[name]) for name in a)
        assert a.keys() == b.keys()
        record_parity(f"bvjax to PyTorch and back, {target} layout", "itself", error, 0)


def test_saved_by_the_libraries_to_the_bit(folders, tmp_path, record_parity):
    """from_pretrained, save_pretrained in several shards, and back."""
    for made, name in (
        (WanTransformer3DModel, "transformer"),
        (AutoencoderKLWan, "vae"),
        (UMT5EncoderModel, "text_encoder"),
    ):
        loaded = made.from_pretrained(folders["diffusers"] / name)
        loaded.save_pretrained(tmp_path / "there" / name, max_shard_size="8KB")
        assert list((tmp_path / "there" / name).glob("*.index.json"))
    convert(tmp_path / "there", tmp_path / "back", "bvjax")
    for part in weights.PARTS:
        a, b = (load_file(f / f"{part}.safetensors") for f in (folders["bvjax"], tmp_path / "back"))
        error = max(difference(a[name], b[name]) for name in a)
        assert a.keys() == b.keys()
        record_parity("saved by `save_pretrained` in shards, and back", "itself", error, 0)


# --- files of torch.save --------------------------------------------------------------

NESTINGS = {
    "plain": lambda state: state,
    "generator": lambda state: {"generator": state, "critic": {"w": torch.ones(2)}},
    "generator_ema": lambda state: {
        "generator": {n: x + 1 for n, x in state.items()},
        "generator_ema": state,
        "step": 3,
    },
    "model": lambda state: {"model": state},
}


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("prefix", ["", "model.", "model._fsdp_wrapped_module."])
def test_dit_of_torch_save(folders, nesting, prefix, tmp_path, record_parity):
    state = load_file(folders["wan"] / NAMES["wan"]["dit"])
    torch.save(
        NESTINGS[nesting]({prefix + n: x for n, x in state.items()}), tmp_path / "trained.pt"
    )
    shutil.copy(folders["wan"] / "config.json", tmp_path)  # which tells the number of heads
    convert(tmp_path / "trained.pt", tmp_path / "back", "bvjax")
    check(folders, tmp_path, "dit", record_parity)


@pytest.mark.parametrize("part", ["vae", "text"])
def test_pth_of_the_original(folders, part, tmp_path, record_parity):
    state = load_file(folders["wan"] / NAMES["wan"][part])
    torch.save(state, tmp_path / "published.pth")
    convert(tmp_path / "published.pth", tmp_path / "back", "bvjax")
    check(folders, tmp_path, part, record_parity)


def check(folders, tmp_path, part, record_parity):
    a, b = (load_file(f / f"{part}.safetensors") for f in (folders["bvjax"], tmp_path / "back"))
    assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)
    record_parity("files of `torch.save`, nested and prefixed", "itself", 0, 0)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_bfloat16(folders, suffix, tmp_path, record_parity):
    state = load_file(folders["wan"] / NAMES["wan"]["dit"])
    state = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    file = tmp_path / f"half.{suffix}"
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    shutil.copy(folders["wan"] / "config.json", tmp_path)
    convert(file, tmp_path / "ours", "bvjax")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["made"]["dit"]["dtype"] == [
        "bfloat16"
    ]
    convert(tmp_path / "ours", tmp_path / "back", "wan")
    back = load_file(tmp_path / "back" / NAMES["wan"]["dit"])
    assert all(back[n].dtype == torch.bfloat16 and back[n].equal(state[n]) for n in state)
    _, params = weights.load_weights(tmp_path / "ours", ["dit"])
    head = params["dit"]["head"]["head"]["kernel"]
    error = difference(head, state["head.head.weight"].float().numpy().T)
    record_parity("bfloat16 files there and back", "itself", error, 0)


def test_wrappers_anywhere_and_networks_at_any_depth(folders, tmp_path, record_parity):
    """As trainers save them: each block wrapped in its own way, weights beside counts and settings."""
    state = load_file(folders["wan"] / NAMES["wan"]["dit"])
    wrapped = {
        "module._orig_mod.model."
        + n.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module."): x
        for n, x in state.items()
    }
    other = {n: x + 1 for n, x in wrapped.items()}
    training = {"generator": wrapped, "critic": other, "step": 1000, "lr": torch.tensor(1e-5)}
    torch.save({"state": training, "config": {"lr": [1e-5]}}, tmp_path / "trained.pt")
    shutil.copy(folders["wan"] / "config.json", tmp_path)
    convert(tmp_path / "trained.pt", tmp_path / "back", "bvjax")
    made = json.loads((tmp_path / "back/config.json").read_text())["made"]["dit"]
    assert (made["branch"], made["stage"]) == ("state.generator", "few-step")
    check(folders, tmp_path, "dit", record_parity)


@pytest.mark.parametrize("content", [b"", b"x" * 99, "cut", "zip", "pickle"])
def test_files_that_torch_cannot_read(folders, content, tmp_path):
    """One sentence of ours: PyTorch's own advises to load without its checks."""
    file = tmp_path / "trained.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/data.pkl", b"x")
    else:
        torch.save(
            {"blocks.0.self_attn.q.weight": torch.ones(9)},
            file,
            _use_new_zipfile_serialization=content == "cut",
        )
        file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(
        UserError, match="is damaged, not a torch.save file, or holds more"
    ) as error:
        convert(file, tmp_path / "dst", "bvjax")
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["trained.pt"]
