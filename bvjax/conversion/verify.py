"""A forward of each converted part in PyTorch and in JAX, compared.

The reference is diffusers' or transformers' class, or ours of `torch_classes` where they have none,
built by the config.json at hand and filled by name; both sides compute in float32 on random inputs
of a dozen tokens.  One framework runs after the other: memory holds about two float32 copies of the
largest part (11 GB for 1.3B parameters, 45 GB for umT5, 115 GB for 14B).
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from bvjax.config import ModelConfig
from bvjax.conversion import formats, text_names
from bvjax.conversion.identity import identify
from bvjax.conversion.sources import Source, open_sources
from bvjax.errors import UserError
from bvjax.nets import vae
from bvjax.nets.dit import WanDiT
from bvjax.nets.text import UMT5Encoder
from bvjax.weights import disk_names, flatten, shapes

PACKAGES = ("torch", "diffusers", "transformers")
TOLERANCE = 1e-3  # of the largest value; 40 layers of random weights differ by 4e-6
REFERENCE_FORMATS = {"dit": "diffusers", "vae": "diffusers", "text": "transformers"}
SIGMA = 0.625  # 1000 sigma is a whole number
FPS = 24


def check_available() -> None:
    """Raises `UserError` unless what `verify` needs can be imported."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"`verify` needs {', '.join(missing)}: run the command with .venv-torch/bin/python "
            "(make setup-torch), or leave it out"
        )


def verify(folder: Path) -> list[str]:
    """Runs every part in `folder`, of any format, in both frameworks; returns a line for each.

    Raises:
        UserError: a part differs by more than `TOLERANCE` of its largest value.
    """
    sources = open_sources(Path(folder))
    model = identify(sources)
    lines = []
    for source in sources:
        inputs = _inputs(model, source.part)
        jax_forward = {"dit": _jax_dit, "vae": _jax_vae, "text": _jax_text}[source.part]
        torch_forward = {"dit": _torch_dit, "vae": _torch_vae, "text": _torch_text}[source.part]
        with jax.default_matmul_precision("highest"):
            outputs = jax_forward(model, _params(source, model), *inputs)
        expected = torch_forward(model, _module(source, model), *inputs)
        for name, array in outputs.items():
            lines.append(_compare(f"{source.part} {name}", source.path, array, expected[name]))
    return lines


def _compare(name: str, path: Path, jax_array, torch_array) -> str:
    jax_array, torch_array = (np.asarray(x, np.float64) for x in (jax_array, torch_array))
    if jax_array.shape != torch_array.shape:
        raise UserError(
            f"{path}: {name} has shape {jax_array.shape} here, {torch_array.shape} in PyTorch"
        )
    error, size = (float(np.abs(x).max()) for x in (jax_array - torch_array, torch_array))
    relative = error / max(size, 1e-30)
    if not relative <= TOLERANCE:
        raise UserError(
            f"{path}: {name} differs between PyTorch and bvjax by {relative:.2g} of its largest "
            f"value ({error:.2g} of {size:.2g}); {TOLERANCE:g} is allowed"
        )
    return f"verified {name}: off by {error:.1e} at most, {relative:.1e} of the largest value"


def _inputs(model: ModelConfig, part: str) -> tuple[np.ndarray, ...]:
    """Random inputs, channels last."""
    rng = np.random.default_rng(0)
    if part == "text":
        ids = rng.integers(0, model.text.vocab_size, (2, 9))
        return ids, np.arange(9) < np.array([[9], [6]])
    if part == "vae":
        side = model.vae.spatial_factor
        frames = rng.uniform(-1, 1, (1, 1 + model.vae.temporal_factor, 2 * side, 3 * side, 3))
        latents = rng.normal(size=(1, 2, 2, 3, model.vae.z_dim))
        return frames.astype(np.float32), latents.astype(np.float32)
    t, h, w = model.dit.patch
    latents = rng.normal(size=(1, 2 * t, 2 * h, 3 * w, model.dit.in_channels))
    text = rng.normal(size=(1, 7, model.text.dim))
    return latents.astype(np.float32), text.astype(np.float32)


# ---- here -------------------------------------------------------------------------------------
def _params(source: Source, model: ModelConfig) -> Any:
    """Parameters in float32."""
    leaves = flatten(shapes(model, source.part))
    disk_locations = disk_names(leaves)
    leaf_arrays = {leaf: np.empty(x.shape, np.float32) for leaf, x in leaves.items()}
    for spec in formats.specs(model, source.part, source.format):
        leaf, layer = disk_locations[spec.name]
        leaf_arrays[leaf][() if layer is None else layer] = spec.to_internal(
            source.tensors.read(spec.external_name)
        )
    return flax.traverse_util.unflatten_dict(leaf_arrays, sep="/")


def _jax_dit(model: ModelConfig, params, latents, text) -> dict[str, Any]:
    config = dataclasses.replace(
        model.dit, dtype="float32", matmul_precision="float32", remat="none"
    )
    tokens = [n // p for n, p in zip(latents.shape[1:4], config.patch, strict=True)]
    grid = np.stack(np.meshgrid(*map(np.arange, tokens), indexing="ij"), -1).reshape(1, 1, -1, 3)

    @jax.jit
    def run(params):
        network = WanDiT(config, model.text.dim)
        sigma = np.full((1, 1), SIGMA, np.float32)
        return network.apply({"params": params}, latents[None], sigma, text[None], grid, fps=FPS)[
            0
        ][0]

    return {"velocity": run(params)}


def _jax_vae(model: ModelConfig, params, frames, latents) -> dict[str, Any]:
    config = dataclasses.replace(model.vae, dtype="float32")

    @jax.jit
    def run(params):
        encoded = vae.encode(params, config, frames)
        return {"latents": encoded, "frames": vae.decode(params, config, latents)}

    return run(params)


def _jax_text(model: ModelConfig, params, ids, mask) -> dict[str, Any]:
    config = dataclasses.replace(model.text, dtype="float32")
    return {"states": jax.jit(UMT5Encoder(config).apply)({"params": params}, ids, mask)}


# ---- PyTorch ----------------------------------------------------------------------------------
def _module(source: Source, model: ModelConfig) -> Any:
    """The reference, filled tensor by tensor; raises `UserError` if names or shapes do not fit."""
    import torch

    part, format_name = source.part, REFERENCE_FORMATS[source.part]
    config = source.config
    if source.format != format_name:
        config = formats.config_file(model, part, "diffusers")[1]
    module = _class(part, config)
    state = module.float().eval().requires_grad_(False).state_dict()
    module_names = {name for name in state if name not in text_names.TIED}
    source_specs = formats.specs(model, part, source.format)
    target_specs = formats.specs(model, part, format_name)
    mismatched = sorted(module_names ^ {spec.external_name for spec in target_specs})
    if mismatched:
        raise UserError(
            f"{type(module).__name__} and {source.path} do not agree about {mismatched}"
        )
    for source_spec, target_spec in zip(source_specs, target_specs, strict=True):
        array = target_spec.to_external(
            source_spec.to_internal(source.tensors.read(source_spec.external_name))
        )
        if tuple(state[target_spec.external_name].shape) != array.shape:
            raise UserError(
                f"{target_spec.external_name} has shape {array.shape}, not that of its PyTorch class"
            )
        state[target_spec.external_name].copy_(torch.from_numpy(array.astype(np.float32)))
    return module


def _class(part: str, config: dict[str, Any]) -> Any:
    """A module of the class that a config.json names."""
    if part == "text":
        import transformers

        return transformers.UMT5EncoderModel(transformers.UMT5Config.from_dict(config))
    import diffusers

    file, name = formats.class_file(config), config["_class_name"]
    library = (
        importlib.import_module(f"bvjax.conversion.torch_classes.{file.stem}")
        if file
        else diffusers
    )
    return getattr(library, name).from_config(config)


def _torch_dit(model: ModelConfig, module, latents, text) -> dict[str, Any]:
    import torch

    fps_argument = {"fps": [int(FPS != 16)]} if model.dit.fps_embedding else {}
    timestep = torch.full((1,), 1000 * SIGMA)
    out = module(
        _to_torch(latents), timestep, torch.from_numpy(text), return_dict=False, **fps_argument
    )
    return {"velocity": _to_numpy(out[0])}


def _torch_vae(model: ModelConfig, module, frames, latents) -> dict[str, Any]:
    mean, std = (np.float32(module.config[key]) for key in ("latents_mean", "latents_std"))
    encoded = (_to_numpy(module.encode(_to_torch(frames)).latent_dist.mode()) - mean) / std
    decoded = module.decode(_to_torch(latents * std + mean)).sample
    return {"latents": encoded, "frames": _to_numpy(decoded)}


def _torch_text(model: ModelConfig, module, ids, mask) -> dict[str, Any]:
    import torch

    output = module(torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)))
    return {"states": output.last_hidden_state.numpy() * mask[..., None]}


def _to_torch(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def _to_numpy(tensor: Any) -> np.ndarray:
    return np.moveaxis(tensor.numpy(), 1, -1)
