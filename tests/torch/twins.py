"""The models of diffusers and transformers with our parameters in them."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKLWan, SkyReelsV2Transformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from bvjax import weights
from bvjax.config import ModelConfig
from bvjax.conversion import formats, text_names


def state_dict(model: ModelConfig, part: str, params) -> dict[str, torch.Tensor]:
    """Our parameters of a part under the names of diffusers or transformers."""
    flat = weights.flatten(params)
    on_disk = weights.disk_names(flat)
    arrays = {
        name: np.asarray(flat[leaf] if layer is None else flat[leaf][layer])
        for name, (leaf, layer) in on_disk.items()
    }
    specs = formats.specs(model, part, "transformers" if part == "text" else "diffusers")
    return {s.external_name: torch.from_numpy(s.to_external(arrays[s.name]).copy()) for s in specs}


def skyreels(model: ModelConfig, params, block: int = 1) -> SkyReelsV2Transformer3DModel:
    dit = model.dit
    twin = SkyReelsV2Transformer3DModel(
        patch_size=dit.patch, num_attention_heads=dit.num_heads, attention_head_dim=dit.head_dim,
        in_channels=dit.in_channels, out_channels=dit.out_channels, text_dim=model.text.dim,
        freq_dim=dit.freq_dim, ffn_dim=dit.ffn_dim, num_layers=dit.num_layers, eps=dit.eps,
        inject_sample_info=dit.fps_embedding, num_frame_per_block=block,
    )  # fmt: skip
    twin.load_state_dict(state_dict(model, "dit", params), strict=True)
    return twin.eval()


def vae(model: ModelConfig, params) -> AutoencoderKLWan:
    config = model.vae
    twin = AutoencoderKLWan(
        base_dim=config.dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
        latents_mean=list(config.latent_mean),
        latents_std=list(config.latent_std),
    )
    twin.load_state_dict(state_dict(model, "vae", params), strict=True)
    return twin.eval()


def umt5(model: ModelConfig, params) -> UMT5EncoderModel:
    config = model.text
    twin = UMT5EncoderModel(
        UMT5Config(
            vocab_size=config.vocab_size,
            d_model=config.dim,
            d_kv=config.head_dim,
            d_ff=config.ffn_dim,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            dropout_rate=0.0,
            relative_attention_num_buckets=config.num_buckets,
            relative_attention_max_distance=config.max_distance,
            feed_forward_proj="gated-gelu",
        )
    )
    missing, extra = twin.load_state_dict(state_dict(model, "text", params), strict=False)
    assert not extra and set(missing) <= set(text_names.TIED), (missing, extra)
    return twin.eval()


def to_torch(latents: np.ndarray) -> torch.Tensor:
    """[..., l, h, w, z] to [..., z, l, h, w]."""
    return torch.from_numpy(np.array(np.moveaxis(np.asarray(latents), -1, -4)))


def to_numpy(latents: torch.Tensor) -> np.ndarray:
    """Inverse of `to_torch`."""
    return np.moveaxis(latents.detach().float().numpy(), -4, -1)
