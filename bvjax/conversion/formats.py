"""Formats of checkpoints: the files of an export and the config.json beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bvjax.config import DiTConfig, ModelConfig, TextConfig, VAEConfig
from bvjax.conversion import dit_names, text_names, vae_names
from bvjax.conversion.tables import TensorSpec, expand
from bvjax.errors import UserError
from bvjax.weights import disk_shapes, flatten, shapes

TARGETS = ("bvjax", "diffusers", "wan", "skyreels")
_BIN = "diffusion_pytorch_model.safetensors"
# target -> part -> (format of the names, file)
FILES = {
    "bvjax": {part: ("bvjax", f"{part}.safetensors") for part in ("dit", "vae", "text")},
    "diffusers": {
        "dit": ("diffusers", f"transformer/{_BIN}"),
        "vae": ("diffusers", f"vae/{_BIN}"),
        "text": ("transformers", "text_encoder/model.safetensors"),
    },
    "wan": {
        "dit": ("wan", _BIN),
        "vae": ("wan", "Wan2.1_VAE.safetensors"),
        "text": ("wan", "models_t5_umt5-xxl-enc.safetensors"),
    },
    "skyreels": {
        "dit": ("wan", "model.safetensors"),
        "vae": ("wan", "Wan2.1_VAE.safetensors"),
        "text": ("wan", "models_t5_umt5-xxl-enc.safetensors"),
    },
}
TOKENIZER_FOLDERS = {
    "diffusers": "tokenizer",
    "wan": "google/umt5-xxl",
    "skyreels": "google/umt5-xxl",
}


def specs(model: ModelConfig, part: str, format_name: str) -> list[TensorSpec]:
    """Every tensor of a part, here and in the format; raises `UserError` if it cannot be expressed."""
    shapes_by_name = disk_shapes(flatten(shapes(model, part)))
    if format_name == "bvjax":
        return [
            TensorSpec(name, name, shape, shape, None) for name, shape in shapes_by_name.items()
        ]
    if part == "vae":
        _check_vae(model.vae, format_name)
    try:
        if part == "dit":
            table = dit_names.rows(model.dit)
            return expand(table, dit_names.FORMATS.index(format_name), shapes_by_name)
        if part == "vae":
            column = vae_names.FORMATS.index(format_name)
            return expand(vae_names.rows(), column, shapes_by_name, vae_names.numbers(model.vae))
        return expand(text_names.rows(), text_names.FORMATS.index(format_name), shapes_by_name)
    except KeyError as error:
        raise UserError(
            f"the format {format_name} has no name for {part}'s {error.args[0]}"
        ) from None


def _check_vae(vae: VAEConfig, format_name: str) -> None:
    """Raises `UserError` for parts of a VAE that exports cannot carry yet."""
    fields = [name for name in ("stem_dim", "tail_dim", "first_std") if getattr(vae, name)]
    if fields:
        field_names = ", ".join(f"vae.{name}" for name in fields)
        raise UserError(
            f"the format {format_name} has no place for what {field_names} adds; `to` bvjax has"
        )


def config_file(model: ModelConfig, part: str, target: str) -> tuple[str, dict[str, Any]] | None:
    """(path, content) of the config.json that goes with a part; None where the target has none.

    Raises:
        UserError: the target's library has no class for this part, nor can one be sent along.
    """
    if target == "diffusers":
        builder = {"dit": _diffusers_dit, "vae": _diffusers_vae, "text": _transformers_text}[part]
        folder = FILES[target][part][1].partition("/")[0]
        return f"{folder}/config.json", builder(model)
    if part == "dit" and target in ("wan", "skyreels"):
        return "config.json", _wan_dit(model.dit, model.text, target)
    return None


def class_file(config: Mapping[str, Any]) -> Path | None:
    """The file with the class that a config.json names, if it is one of ours."""
    class_path = config.get("auto_map", {}).get("AutoModel")
    return (
        Path(__file__).parent / "torch_classes" / f"{class_path.split('.')[0]}.py"
        if class_path
        else None
    )


def plain_dit(dit: DiTConfig) -> bool:
    """Returns whether Wan's or SkyReels' own class can express this DiT."""
    return not _bvjax_settings(dit)


def plain_vae(vae: VAEConfig) -> bool:
    """Returns whether diffusers' class can express this VAE."""
    return all(vae.spatial_downsample) and vae.patch == 1


def _bvjax_settings(dit: DiTConfig) -> dict[str, Any]:
    """Returns the settings of `BvjaxTransformer3DModel` beyond Wan's; {} where Wan's class will do."""
    settings = {
        "preconditioning": dit.preconditioning,
        "spatial_position_embedding": dit.spatial_position_embedding,
        "previous_latent": dit.previous_latent,
        "text_modulation": dit.text_modulation,
        "similarity_keys": dit.similarity_keys,
        "rope_theta": dit.rope_theta,
    }
    if settings == {name: getattr(DiTConfig(), name) for name in settings}:
        return {}
    by_channel = {"latents_spread": dit.latent_std, "latents_correlation": dit.latent_correlation}
    return settings | {name: list(values) or None for name, values in by_channel.items()}


def _custom_class(module: str, name: str) -> dict[str, Any]:
    """Returns the config keys by which diffusers finds a class stored next to the weights."""
    return {"_class_name": name, "auto_map": {"AutoModel": f"{module}.{name}"}}


def _wan_dit(dit: DiTConfig, text: TextConfig, target: str) -> dict[str, Any]:
    config = {
        "_class_name": "WanModel",
        "model_type": "t2v",
        "patch_size": list(dit.patch),
        "text_len": text.max_length,
        "in_dim": dit.in_channels,
        "dim": dit.dim,
        "ffn_dim": dit.ffn_dim,
        "freq_dim": dit.freq_dim,
        "text_dim": text.dim,
        "out_dim": dit.out_channels,
        "num_heads": dit.num_heads,
        "num_layers": dit.num_layers,
        "qk_norm": True,
        "cross_attn_norm": True,
        "eps": dit.eps,
        **_bvjax_settings(dit),
    }
    if target == "skyreels":
        config["inject_sample_info"] = dit.fps_embedding
    return config


def _diffusers_dit(model: ModelConfig) -> dict[str, Any]:
    dit = model.dit
    name = "SkyReelsV2Transformer3DModel" if dit.fps_embedding else "WanTransformer3DModel"
    config = {
        "_class_name": name,
        "patch_size": list(dit.patch),
        "num_attention_heads": dit.num_heads,
        "attention_head_dim": dit.head_dim,
        "in_channels": dit.in_channels,
        "out_channels": dit.out_channels,
        "text_dim": model.text.dim,
        "freq_dim": dit.freq_dim,
        "ffn_dim": dit.ffn_dim,
        "num_layers": dit.num_layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": dit.eps,
        "image_dim": None,
        "added_kv_proj_dim": None,
        "rope_max_seq_len": 1024,
        "pos_embed_seq_len": None,
    }
    if dit.fps_embedding and not plain_dit(dit):
        raise UserError(
            "diffusers has no class for a DiT with dit.fps_embedding and what only bvjax models have"
        )
    if dit.fps_embedding:
        config |= {"inject_sample_info": True, "num_frame_per_block": 1}
    elif not plain_dit(dit):
        config |= _custom_class("transformer_bvjax", "BvjaxTransformer3DModel") | _bvjax_settings(
            dit
        )
    return config


def _diffusers_vae(model: ModelConfig) -> dict[str, Any]:
    vae = model.vae
    if vae.temporal_factor != 4:
        raise UserError(
            f"vae.temporal_downsample makes one latent of {vae.temporal_factor} frames; the VAE of "
            "diffusers goes by 4"
        )
    # what 1 of a normalised latent is, as `nets.vae.normalise` has it
    std = np.asarray(vae.latent_std, np.float32) / np.asarray(vae.latent_scale or 1.0, np.float32)
    config = {
        "_class_name": "AutoencoderKLWan",
        "base_dim": vae.dim,
        "decoder_base_dim": None,
        "z_dim": vae.z_dim,
        "dim_mult": list(vae.dim_mult),
        "num_res_blocks": vae.num_res_blocks,
        "attn_scales": [],
        "temperal_downsample": list(vae.temporal_downsample),
        "dropout": 0.0,
        "latents_mean": list(vae.latent_mean),
        "latents_std": std.tolist() if vae.latent_scale else list(vae.latent_std),
        "is_residual": False,
        "in_channels": 3,
        "out_channels": 3,
        "patch_size": None,
        "scale_factor_temporal": vae.temporal_factor,
        "scale_factor_spatial": vae.spatial_factor,
    }
    if not plain_vae(vae):
        config |= _custom_class("autoencoder_bvjax", "BvjaxAutoencoderKL")
        config |= {"fold": vae.patch, "spatial_downsample": list(vae.spatial_downsample)}
    return config


def _transformers_text(model: ModelConfig) -> dict[str, Any]:
    text = model.text
    return {
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        "vocab_size": text.vocab_size,
        "d_model": text.dim,
        "d_kv": text.head_dim,
        "d_ff": text.ffn_dim,
        "num_layers": text.num_layers,
        "num_decoder_layers": text.num_layers,
        "num_heads": text.num_heads,
        "relative_attention_num_buckets": text.num_buckets,
        "relative_attention_max_distance": text.max_distance,
        "dropout_rate": 0.0,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "tie_word_embeddings": True,
    }
