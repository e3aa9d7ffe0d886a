"""Configurations read from the shapes of a checkpoint's tensors, and the preset they match."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bvjax.config import WAN_LATENT_MEAN, WAN_LATENT_STD, DiTConfig, TextConfig, VAEConfig
from bvjax.conversion import dit_names, text_names, vae_names
from bvjax.conversion.sources import Source
from bvjax.conversion.tables import Row
from bvjax.errors import UserError
from bvjax.old_field_names import current_value
from bvjax.presets import PRESETS

Config = TypeVar("Config")
HEAD_DIM = 128  # of every published Wan DiT; the number of heads is in no tensor's shape
IMAGE_CHANNELS = 36  # noise, mask and image: Wan's image-to-video models


def dit_config(source: Source) -> tuple[DiTConfig, int]:
    """The DiT in `source` and the width of its text states; raises `UserError`."""
    shape = _shapes(source, dit_names.rows(DiTConfig()), dit_names.FORMATS)
    dim, channels, *patch = shape("patch_embedding", 5)
    if channels == IMAGE_CHANNELS:
        raise UserError(
            f"{source.path} takes {channels} channels: it is a Wan image-to-video model with CLIP "
            "features, which bvjax does not run; text-to-video weights take an image as frame 0"
        )
    layers = _layers(source)
    config_layers = _config_value(source, "num_layers", int)
    if config_layers not in (None, layers):
        raise UserError(
            f"{source.path} holds {layers} layers but its config.json says {config_layers}"
        )
    heads = _config_value(source, "num_heads", int) or _config_value(
        source, "num_attention_heads", int
    )
    if heads is None:
        if dim % HEAD_DIM:
            raise UserError(
                f"{source.path} has no config.json to say how many heads its width {dim} has"
            )
        heads = dim // HEAD_DIM
    config = _build_config(
        source,
        DiTConfig,
        dim=dim,
        num_heads=heads,
        num_layers=layers,
        ffn_dim=shape("blocks/{i}/ffn/0", 2)[0],
        freq_dim=shape("time_embedding/0", 2)[1],
        in_channels=channels,
        out_channels=shape("head/head", 2)[0] // math.prod(patch),
        patch=tuple(patch),
        eps=_config_value(source, "eps", float) or 1e-6,
        **_extensions(source),
    )
    return config, shape("text_embedding/0", 2)[1]


def _extensions(source: Source) -> dict[str, Any]:
    """Reads the fields that SkyReels-V2 and bvjax add to Wan's DiT."""
    infos = source.tensors.infos
    # What exports were told before: "velocity" or "residual".
    output = _config_value(source, "output", str)
    before = output and current_value(DiTConfig, "output", output)
    text_tensors = {"text_modulation.weight", "condition_embedder.text_modulation.weight"}
    previous_tensors = {"previous_embedding.weight", "patch_embedding.previous.weight"}
    position_tensors = {"place_embedding.weight", "patch_embedding.place.weight"}
    return {
        "fps_embedding": "fps_embedding.weight" in infos,
        "spatial_position_embedding": not position_tensors.isdisjoint(infos),
        "text_modulation": not text_tensors.isdisjoint(infos),
        "previous_latent": not previous_tensors.isdisjoint(infos),
        "latent_correlation": _config_value(source, "latents_correlation", list) or (),
        "similarity_keys": any(name.endswith(".similarity_key") for name in infos),
        "preconditioning": _config_value(source, "preconditioning", str) or before or "none",
        "latent_std": _config_value(source, "latents_spread", list) or (),
        "rope_theta": _config_value(source, "rope_theta", float) or 10000.0,
    }


def vae_config(source: Source) -> VAEConfig:
    """The VAE in `source`; raises `UserError`."""
    config_json, column = source.config, vae_names.FORMATS.index(source.format)
    shape = _shapes(source, vae_names.rows(), vae_names.FORMATS)
    block = ("encoder.downsamples", "encoder.down_blocks")[column]
    conv = ("residual.2", "conv1")[column]
    widths: list[int] = []
    temporal: list[bool] = []
    spatial: list[bool] = []
    blocks, k = 0, 0
    infos = source.tensors.infos
    while True:
        if f"{block}.{k}.{conv}.weight" in infos:
            if len(widths) == len(temporal):
                widths.append(_first_axis(source, f"{block}.{k}.{conv}.weight"))
            blocks += not temporal
        else:
            resampled = [f"{block}.{k}.{x}.weight" in infos for x in ("resample.1", "time_conv")]
            if not any(resampled):
                break
            spatial.append(resampled[0])
            temporal.append(resampled[1])
        k += 1
    dim = shape("encoder/conv1", 5)[0]
    z_dim = shape("conv2", 5)[0]
    patch = _config_value(source, "fold", int) or math.isqrt(shape("encoder/conv1", 5)[1] // 3)
    mean, std = (_config_value(source, name, list) for name in ("latents_mean", "latents_std"))
    if mean is None and z_dim == len(WAN_LATENT_MEAN):
        mean, std = WAN_LATENT_MEAN, WAN_LATENT_STD
    if mean is None or std is None:
        raise UserError(f"{source.path} has no config.json to give the mean and std of its latents")
    is_unsupported = config_json.get("is_residual") or config_json.get("patch_size") not in (
        None,
        1,
    )
    if is_unsupported or (config_json.get("decoder_base_dim") or dim) != dim:
        raise UserError(f"{source.path} is a Wan2.2 VAE; bvjax runs that of Wan2.1")
    return _build_config(
        source,
        VAEConfig,
        dim=dim,
        z_dim=z_dim,
        patch=patch,
        dim_mult=tuple(width // dim for width in widths),
        num_res_blocks=blocks,
        spatial_downsample=tuple(spatial),
        temporal_downsample=tuple(temporal),
        latent_mean=mean,
        latent_std=std,
    )


def text_config(source: Source) -> TextConfig:
    """The umT5 encoder in `source`; raises `UserError`."""
    shape = _shapes(source, text_names.rows(), text_names.FORMATS)
    vocabulary, dim = shape("token_embedding", 2)
    buckets, heads = shape("blocks/{i}/pos_embedding", 2)
    return _build_config(
        source,
        TextConfig,
        vocab_size=vocabulary,
        dim=dim,
        num_layers=_layers(source),
        num_heads=heads,
        head_dim=shape("blocks/{i}/attn/q", 2)[0] // heads,
        ffn_dim=shape("blocks/{i}/ffn/fc1", 2)[0],
        num_buckets=buckets,
        max_distance=_config_value(source, "relative_attention_max_distance", int) or 128,
    )


def preset_of(dit: DiTConfig, branch: str) -> str | None:
    """The preset whose DiT has these sizes; of several, by how it was published."""
    fits = [name for name, preset in PRESETS.items() if not difference(preset.dit, dit)]
    if is_generator(branch):
        fits = [name for name in fits if name == "self-forcing"] or fits
    return fits[0] if fits else None


def is_generator(branch: str) -> bool:
    """Returns whether a branch has the name of a few-step model of the Self-Forcing family."""
    return any(word.startswith("generator") for word in branch.split("."))


def difference(expected: Any, actual: Any) -> str:
    """The first size in which two configurations differ, as a sentence's end; "" if none does."""
    ignored_fields = (
        "dtype",
        "remat",
        "matmul_precision",
        "eps",
        "latent_scale",
        "max_length",
        "conv_impl",
        "qk_init",
    )
    for field in dataclasses.fields(expected):
        expected_value, actual_value = getattr(expected, field.name), getattr(actual, field.name)
        if field.name not in ignored_fields and expected_value != actual_value:
            return f"{field.name} {actual_value} instead of {expected_value}"
    return ""


def _config_value(source: Source, name: str, kind: type) -> Any:
    """Reads the config.json beside a checkpoint, None where it is silent; raises `UserError`."""
    value = source.config.get(name)
    if value is None:
        return None
    values = value if kind is list and isinstance(value, list) else [value]
    types = {int: (int,), float: (int, float), list: (int, float), str: (str,)}[kind]
    is_valid = isinstance(value, list) == (kind is list) and all(type(x) in types for x in values)
    if kind in (int, float):
        is_valid = is_valid and value > 0
    if not is_valid:
        descriptions = {
            int: "a whole number above 0",
            float: "a number above 0",
            list: "a list of numbers",
            str: "a word",
        }
        raise UserError(
            f"the config.json of {source.path} has {name} {str(value)[:40]!r}; it must be {descriptions[kind]}"
        )
    return tuple(map(float, value)) if kind is list else value if kind is str else kind(value)


def _build_config(source: Source, cls: Callable[..., Config], **sizes: Any) -> Config:
    """The configuration of these sizes; raises `UserError` where there can be no such network."""
    try:
        return cls(**sizes)
    except UserError as error:
        raise UserError(f"{source.path} is no {source.part} that bvjax runs: {error}") from None


def _shapes(source: Source, rows: list[Row], formats: tuple[str, ...]):
    """A function (our layer, rank) -> shape of its weight there."""
    column = formats.index(source.format)
    tensor_names = {
        row.name: f"{row.external_names[column]}.{row.leaves[0].external_leaf}" for row in rows
    }

    def shape(layer: str, rank: int) -> tuple[int, ...]:
        name = tensor_names[layer].replace("{i}", "0")
        if name not in source.tensors.infos:
            raise UserError(f"{source.path} is not a whole {source.part}: it has no {name}")
        tensor_shape = source.tensors.infos[name].shape
        if len(tensor_shape) != rank:
            raise UserError(
                f"{source.path}: {name} has shape {list(tensor_shape)}, not {rank} axes"
            )
        if 0 in tensor_shape:
            raise UserError(f"{source.path}: {name} has shape {list(tensor_shape)}, which is empty")
        return tensor_shape

    return shape


def _first_axis(source: Source, name: str) -> int:
    shape = source.tensors.infos[name].shape
    if not shape:
        raise UserError(f"{source.path}: {name} has no axes")
    return shape[0]


def _layers(source: Source) -> int:
    """The number of transformer layers; raises `UserError` where one of them is missing."""
    matches = [
        re.match(r"(?:encoder\.block|blocks)\.([0-9]{1,6})\.", name)
        for name in source.tensors.infos
    ]
    numbers = {int(match[1]) for match in matches if match}
    missing = next(i for i in range(len(numbers) + 1) if i not in numbers)
    if missing < len(numbers):
        raise UserError(
            f"{source.path} is not a whole {source.part}: of its layers number {missing} is missing"
        )
    return len(numbers)


def count_parameters(infos: Mapping[str, Any]) -> int:
    """Parameters in all tensors."""
    return sum(math.prod(info.shape) for info in infos.values())
