"""Tiny models of diffusers and transformers, random in all parameters, and the way from them to ours.

A model is saved with its library's `save_pretrained`, converted by `bvjax.convert`, and loaded from
the weights folder that this writes: what the tests compare has gone the whole way.
"""

from __future__ import annotations

import math
import pathlib
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from bvjax import weights
from bvjax.config import ModelConfig
from bvjax.conversion.converter import convert
from tests.golden import recipe

# A full-size preset lends what no checkpoint tells; the tests compute in float32.
PLAIN = ("dit.dtype=float32", "dit.remat=none")


def randomise(module: torch.nn.Module, seed: str = "") -> torch.nn.Module:
    """The module with a new value in every parameter, of about unit gain, ready for inference."""
    for name, parameter in module.named_parameters():
        shape = tuple(parameter.shape)
        matrix = sum(size > 1 for size in shape) > 1
        looked_up = "shared" in name or "relative_attention_bias" in name
        fan_in = math.prod(shape[1:]) if matrix else 16
        if "scale_shift_table" in name:
            fan_in = 16
        scales = name.endswith("gamma") or (
            "norm" in name and name.endswith("weight") and not matrix
        )
        values = recipe.leaf(f"{seed}/{name}", shape, 1 if looked_up else fan_in, float(scales))
        parameter.data.copy_(torch.from_numpy(values))
    return module.requires_grad_(False).eval()


def transformer(
    *, heads=2, head_dim=12, layers=2, ffn_dim=40, freq_dim=32, channels=4, text_dim=12,
    patch=(1, 2, 2), seed="",
) -> WanTransformer3DModel:  # fmt: skip
    made = WanTransformer3DModel(
        patch_size=patch, num_attention_heads=heads, attention_head_dim=head_dim,
        in_channels=channels, out_channels=channels, text_dim=text_dim, freq_dim=freq_dim,
        ffn_dim=ffn_dim, num_layers=layers,
    )  # fmt: skip
    return randomise(made, seed)


def autoencoder(
    *, dim=8, z_dim=16, dim_mult=(1, 2, 2, 2), blocks=1, temporal=(False, True, True), seed=""
) -> AutoencoderKLWan:
    made = AutoencoderKLWan(
        base_dim=dim,
        z_dim=z_dim,
        dim_mult=list(dim_mult),
        num_res_blocks=blocks,
        temperal_downsample=list(temporal),
        latents_mean=recipe.uniform("mean", (z_dim,)).tolist(),
        latents_std=(2 + recipe.uniform("std", (z_dim,)) / 2).tolist(),
        scale_factor_spatial=2 ** (len(dim_mult) - 1),
        scale_factor_temporal=2 ** sum(temporal),
    )
    return randomise(made, seed)


def text_encoder(
    *, vocabulary=64, dim=12, layers=2, heads=2, head_dim=6, ffn_dim=24, buckets=32, distance=128,
    seed="",
) -> UMT5EncoderModel:  # fmt: skip
    made = UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary,
            d_model=dim,
            d_kv=head_dim,
            d_ff=ffn_dim,
            num_layers=layers,
            num_heads=heads,
            relative_attention_num_buckets=buckets,
            dropout_rate=0.0,
            relative_attention_max_distance=distance,
            feed_forward_proj="gated-gelu",
        )
    )
    return randomise(made, seed)


def ours(module, folder: pathlib.Path, *overrides: str) -> tuple[ModelConfig, Any]:
    """The configuration and the parameters that a saved and converted module has here."""
    module.save_pretrained(folder / "theirs")
    convert(folder / "theirs", folder / "ours", "bvjax", overrides=(*PLAIN, *overrides))
    part = next(
        part for part in weights.PARTS if (folder / "ours" / f"{part}.safetensors").exists()
    )
    model, params = weights.load_weights(folder / "ours", [part])
    return model, params[part]


def difference(a, b) -> float:
    """The largest absolute difference; infinite when shapes differ or a value is not finite."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    return float(np.abs(a - b).max())


def size(a) -> float:
    """The largest absolute value."""
    return float(np.abs(np.asarray(a)).max())


def to_torch(array) -> torch.Tensor:
    """Channels last, [b, l, h, w, z], to channels second, [b, z, l, h, w]."""
    return torch.from_numpy(np.array(np.moveaxis(np.asarray(array), -1, 1)))


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Inverse of `to_torch`."""
    return np.moveaxis(tensor.detach().float().numpy(), 1, -1)
