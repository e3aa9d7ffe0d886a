"""What we export is loaded by diffusers' and transformers' own `from_pretrained`, and says the same.

The shipped mini model has parts that their classes lack: its export brings PyTorch classes along.
Exports that need none are in test_export.py.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import pathlib
import types

import diffusers
import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import UMT5EncoderModel

from bvjax import weights
from bvjax.config import DiTConfig, ModelConfig, TextConfig, VAEConfig
from bvjax.conversion import architecture
from bvjax.conversion.converter import convert
from bvjax.conversion.sources import open_sources
from bvjax.errors import UserError
from bvjax.loading.bundle import ASSETS
from bvjax.nets import vae
from bvjax.nets.dit import PreviousLatent, WanDiT
from bvjax.nets.text import UMT5Encoder
from tests.golden import recipe
from tests.torch.builders import difference, size, to_numpy, to_torch

TOLERANCE = 3e-5
TEXT = TextConfig(vocab_size=64, dim=12, num_layers=2, num_heads=2, head_dim=6, ffn_dim=24)
WAN = DiTConfig(
    dim=36, num_heads=2, num_layers=2, ffn_dim=40, freq_dim=32, in_channels=4, out_channels=4
)
WAN_VAE = VAEConfig(
    dim=4,
    z_dim=4,
    dim_mult=(1, 2, 3),
    num_res_blocks=1,
    spatial_downsample=(True, True),
    temporal_downsample=(True, True),
    latent_mean=(0.5, -1.0, 0.25, 0.0),
    latent_std=(2.0, 1.5, 0.5, 3.0),
)
MODELS = {
    # levels that halve space, and levels that do not; scaled latents
    "mixed": ModelConfig(
        "mixed",
        dit=dataclasses.replace(
            WAN, preconditioning="linear", latent_std=(0.5, 1.0, 2.0, 0.1), rope_theta=300.0,
            patch=(1, 1, 2), spatial_position_embedding=True, text_modulation=True,
            previous_latent=True, latent_correlation=(0.9, 0.0, 0.5, 0.97),
        ),
        vae=VAEConfig(
            dim=3, z_dim=4, patch=2, dim_mult=(1, 3, 2, 4), num_res_blocks=2,
            spatial_downsample=(False, True, False), temporal_downsample=(True, False, True),
            latent_mean=(0.5, -1.0, 0.25, 0.0), latent_std=(2.0, 1.5, 0.5, 3.0),
            latent_scale=(1.0, 0.5, 0.25, 0.3),
        ),
        text=TEXT,
    ),
    "skyreels": ModelConfig(
        "skyreels", dit=dataclasses.replace(WAN, fps_embedding=True), vae=WAN_VAE, text=TEXT
    ),
}  # fmt: skip
CLASSES = {
    "mini": ("BvjaxTransformer3DModel", "BvjaxAutoencoderKL"),
    "mixed": ("BvjaxTransformer3DModel", "BvjaxAutoencoderKL"),
    "skyreels": ("SkyReelsV2Transformer3DModel", "AutoencoderKLWan"),
}


@pytest.fixture(scope="module", autouse=True)
def modules_cache(tmp_path_factory):
    """diffusers copies the classes of a checkpoint into a cache, here one that goes away."""
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("modules"))
        patch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", cache)
        patch.syspath_prepend(cache)
        yield


@pytest.fixture(scope="module", params=CLASSES)
def client(request, tmp_path_factory):
    """The model, our parameters, the exported folder, and what `from_pretrained` makes of it."""
    name = request.param
    folder = ASSETS / "mini"
    if name != "mini":
        model, folder = MODELS[name], tmp_path_factory.mktemp(name)
        params = {part: recipe.params(model, part) for part in weights.PARTS}
        tail = params["vae"]["decoder"]["head_2"]
        params["vae"]["decoder"]["head_2"] = jax.tree.map(lambda x: x / 8, tail)  # few are clamped
        weights.save_weights(folder, model, params)
    exported = tmp_path_factory.mktemp("exported")
    convert(folder, exported, "diffusers")
    model, params = weights.load_weights(folder)
    load = functools.partial(
        diffusers.AutoModel.from_pretrained,
        torch_dtype=torch.float32,
        trust_remote_code=name in ("mini", "mixed"),
    )
    theirs = {
        "dit": load(str(exported), subfolder="transformer"),
        "vae": load(str(exported / "vae")),
        "text": UMT5EncoderModel.from_pretrained(exported / "text_encoder", dtype=torch.float32),
    }
    return types.SimpleNamespace(
        name=name, model=model, params=params, source=folder, folder=exported, **theirs
    )


def reference(client, part):
    return f"`{type(getattr(client, part)).__name__}.from_pretrained`"


def note(record_parity, client, what, part, ours, theirs):
    whose = "mini model" if client.name == "mini" else "random models"
    error = difference(ours, theirs)
    record_parity(
        f"export of the {whose}, {what}", reference(client, part), error, TOLERANCE, size(theirs)
    )


def test_the_classes(client):
    """Where a class of diffusers suffices, no code goes with the weights."""
    assert (type(client.dit).__name__, type(client.vae).__name__) == CLASSES[client.name]
    code = sorted(path.name for path in client.folder.rglob("*.py"))
    ours = client.name in ("mini", "mixed")
    assert code == (["autoencoder_bvjax.py", "transformer_bvjax.py"] if ours else [])
    for module in (client.dit, client.vae):
        assert not module.training
        assert type(module).from_config(module.config).config == module.config


@torch.no_grad()
def test_transformer(client, record_parity):
    dit = client.model.dit
    latents = recipe.uniform("latents", (2, 3, 6, 4, dit.in_channels))
    text = recipe.uniform("text", (2, 7, client.model.text.dim))
    tokens = [n // p for n, p in zip(latents.shape[1:4], dit.patch, strict=True)]
    grid = np.stack(np.meshgrid(*map(np.arange, tokens), indexing="ij"), -1).reshape(1, 1, -1, 3)
    network = WanDiT(dit, client.model.text.dim)
    apply = jax.jit(functools.partial(network.apply, {"params": client.params["dit"]}, fps=24))
    rate = {"fps": [1, 1]} if dit.fps_embedding else {}

    def compare(what, sigma, timestep, previous=None):
        inputs, told, ours_told = (latents, sigma, text), dict(rate), {}
        if previous is not None:
            told["previous"] = torch.from_numpy(previous).permute(0, 3, 1, 2)
            known = np.ones((len(previous), 1), bool)
            ours_told["previous"] = PreviousLatent(previous[:, None], known)
        chunks = (x[:, None] for x in inputs)
        ours = apply(*chunks, grid.repeat(2, 0), **ours_told)[0][:, 0]
        theirs = client.dit(to_torch(latents), timestep, torch.from_numpy(text), **told).sample
        note(record_parity, client, what, "dit", ours, to_numpy(theirs))

    for levels in ((0.0, 0.5), (0.25, 1.0)):
        sigma = np.float32(levels)
        compare("DiT, one sigma", sigma, torch.from_numpy(1000 * sigma))
    if dit.previous_latent:
        before = recipe.uniform("previous", (2, *latents.shape[2:]))
        sigma = np.float32([0.5, 1.0])
        compare("DiT, after another chunk", sigma, torch.from_numpy(1000 * sigma), before)
    if not dit.fps_embedding:  # SkyReels takes timesteps in another way, and has tests of its own
        sigma = np.float32([[0.0, 0.5, 1.0], [0.25, 0.75, 0.875]])
        timestep = torch.from_numpy(1000 * sigma).repeat_interleave(tokens[1] * tokens[2], 1)
        compare("DiT, a sigma for each latent frame", sigma, timestep)


@pytest.mark.parametrize("client", ("mini", "mixed"), indirect=True)
@torch.no_grad()
def test_vae(client, record_parity):
    """Encoded and decoded whole; ours in pieces as well."""
    config, params = client.model.vae, client.params["vae"]
    side = config.spatial_factor
    mean, std = (np.float32(client.vae.config[key]) for key in ("latents_mean", "latents_std"))
    names = ("encode", "decode", "encode_stream", "decode_stream")
    ours = {
        name: jax.jit(
            functools.partial(getattr(vae, name), params, config),
            static_argnames="first" if name.endswith("stream") else (),
        )
        for name in names
    }
    for frames in (1, 5, 13):
        name = f"video of {frames} frames"
        video = np.clip(recipe.uniform(name, (1, frames, 2 * side, 3 * side, 3)) / 2, -1, 1)
        encoded = to_numpy(client.vae.encode(to_torch(video)).latent_dist.mode())
        want = (encoded - mean) / std
        found = ours["encode"](video)
        note(record_parity, client, "VAE encode", "vae", found, want)
        latents = recipe.uniform(f"latents of {frames} frames", want.shape) * want.std()
        pixels = to_numpy(client.vae.decode(to_torch(latents * std + mean)).sample)
        assert (np.abs(pixels) < 1).mean() > 0.5
        note(record_parity, client, "VAE decode", "vae", ours["decode"](latents), pixels)
    state, pieces = vae.init_encode_state(config, 1, 2 * side, 3 * side), []
    for i, piece in enumerate(np.split(video, [5], axis=1)):
        state, piece = ours["encode_stream"](state, piece, first=i == 0)
        pieces.append(piece)
    note(record_parity, client, "VAE encode in pieces", "vae", np.concatenate(pieces, 1), want)
    state, pieces = vae.init_decode_state(config, 1, 2 * side, 3 * side), []
    for i, piece in enumerate(np.split(latents, [1], axis=1)):
        state, piece = ours["decode_stream"](state, piece, first=i == 0)
        pieces.append(piece)
    note(record_parity, client, "VAE decode in pieces", "vae", np.concatenate(pieces, 1), pixels)


@pytest.mark.parametrize("client", ("mini",), indirect=True)
@torch.no_grad()
def test_text_encoder(client, record_parity):
    config = client.model.text
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (2, 11))
    mask = np.arange(11) < np.array([[11], [4]])
    found = UMT5Encoder(config).apply({"params": client.params["text"]}, ids, mask)
    states = client.text(torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)))
    want = states.last_hidden_state.numpy() * mask[..., None]
    note(record_parity, client, "umT5", "text", found, want)


def test_there_and_back_to_the_bit(client, tmp_path, record_parity):
    """Also when PyTorch has saved the model again in between."""
    source = client.source
    stored = {part: load_file(source / f"{part}.safetensors") for part in weights.PARTS}
    convert(client.folder, tmp_path / "back", "bvjax")
    for part, before in stored.items():
        after = load_file(tmp_path / "back" / f"{part}.safetensors")
        assert before.keys() == after.keys()
        assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert weights.load_config(tmp_path / "back") == client.model
    record_parity("bvjax to diffusers and back, all tensors", "the weights before", 0.0, 0.0)

    folders = {"dit": "transformer", "vae": "vae", "text": "text_encoder"}
    for part, folder in folders.items():
        getattr(client, part).save_pretrained(tmp_path / "saved" / folder)
    (tmp_path / "saved" / "manifest.json").write_bytes(
        (client.folder / "manifest.json").read_bytes()
    )
    convert(tmp_path / "saved", tmp_path / "again", "bvjax")
    for part, before in stored.items():
        after = load_file(tmp_path / "again" / f"{part}.safetensors")
        for name in before:
            np.testing.assert_array_equal(before[name].astype(np.float32), after[name])


def test_what_the_config_files_say(client):
    """Without our manifest the networks are read from PyTorch's own configuration."""
    found = {source.part: source for source in open_sources(client.folder)}
    dit, text_dim = architecture.dit_config(found["dit"])
    assert not architecture.difference(client.model.dit, dit)
    assert text_dim == client.model.text.dim
    read, config = architecture.vae_config(found["vae"]), client.model.vae
    for name in ("dim", "dim_mult", "patch", "spatial_downsample", "temporal_downsample"):
        assert getattr(read, name) == getattr(config, name)
    z = np.linspace(-2, 2, config.z_dim, dtype=np.float32)
    np.testing.assert_allclose(vae.normalise(read, z), vae.normalise(config, z), rtol=1e-6)


@pytest.mark.parametrize("client", ("mini",), indirect=True)
def test_the_files_with_our_classes_stand_alone(client):
    """Imported by path, as one does who does not want `trust_remote_code`."""
    for folder, name, loaded in (
        ("transformer", "transformer_bvjax", client.dit),
        ("vae", "autoencoder_bvjax", client.vae),
    ):
        path = client.folder / folder / f"{name}.py"
        assert "import bvjax" not in path.read_text() and "from bvjax" not in path.read_text()
        spec = importlib.util.spec_from_file_location(f"client_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        cls = getattr(module, json.loads((path.parent / "config.json").read_text())["_class_name"])
        again = cls.from_pretrained(path.parent, torch_dtype=torch.float32)
        for (name, a), b in zip(
            again.state_dict().items(), loaded.state_dict().values(), strict=True
        ):
            assert torch.equal(a, b), name


def test_what_pytorch_has_no_class_for_is_refused(tmp_path):
    model = MODELS["mixed"]
    for section, change, match in (
        ("dit", {"fps_embedding": True}, "diffusers has no class for a DiT with dit.fps_embedding"),
        ("vae", {"temporal_downsample": (True, False, False)}, "makes one latent of 2 frames"),
    ):
        part = dataclasses.replace(getattr(model, section), **change)
        other = dataclasses.replace(model, **{section: part})
        folder = pathlib.Path(tmp_path / section)
        weights.save_weights(folder, other, {section: recipe.params(other, section)})
        with pytest.raises(UserError, match=match):
            convert(folder, tmp_path / "out", "diffusers")
        assert not (tmp_path / "out").exists()
