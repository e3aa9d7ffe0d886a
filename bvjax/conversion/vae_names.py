"""Names of the VAE's tensors: ours, the original Wan2.1_VAE.pth, and diffusers' AutoencoderKLWan.

The original numbers the encoder's and the decoder's blocks through; diffusers does so in the
encoder, and groups the decoder's by level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bvjax.config import VAEConfig
from bvjax.conversion.tables import CONV2D, CONV3D, GAMMA_IMAGE, GAMMA_VIDEO, Row

FORMATS = ("wan", "diffusers")


def rows() -> list[Row]:
    """The table; names of diffusers use the numbers of `numbers`."""
    table = [
        ("conv1", "conv1", "quant_conv", CONV3D),
        ("conv2", "conv2", "post_quant_conv", CONV3D),
        *_ends("encoder"),
        *_ends("decoder"),
        *_residual("encoder/downsamples_{k}", "encoder.downsamples.{k}", "encoder.down_blocks.{k}"),
        *_resample("encoder/downsamples_{k}", "encoder.downsamples.{k}", "encoder.down_blocks.{k}"),
        *_residual("decoder/upsamples_{k}", "decoder.upsamples.{k}", _LEVEL + ".resnets.{index}"),
        *_resample("decoder/upsamples_{k}", "decoder.upsamples.{k}", _LEVEL + ".upsamplers.0"),
    ]
    return [Row(internal, (wan, diffusers), leaves) for internal, wan, diffusers, leaves in table]


def numbers(vae: VAEConfig) -> Callable[[int], Mapping[str, int]]:
    """Returns a function from decoder block k to its level and its index in the level."""
    per_level = vae.num_res_blocks + 2  # one more than in the encoder, and the resampler
    return lambda k: {"level": k // per_level, "index": k % per_level}


def _ends(part: str) -> list[tuple]:
    """First and last layers and the middle."""
    internal, middle = f"{part}/middle", f"{part}.mid_block"
    return [
        (f"{part}/conv1", f"{part}.conv1", f"{part}.conv_in", CONV3D),
        *_residual(f"{internal}_0", f"{part}.middle.0", f"{middle}.resnets.0"),
        (f"{internal}_1/norm", f"{part}.middle.1.norm", f"{middle}.attentions.0.norm", GAMMA_IMAGE),
        (
            f"{internal}_1/to_qkv",
            f"{part}.middle.1.to_qkv",
            f"{middle}.attentions.0.to_qkv",
            CONV2D,
        ),
        (f"{internal}_1/proj", f"{part}.middle.1.proj", f"{middle}.attentions.0.proj", CONV2D),
        *_residual(f"{internal}_2", f"{part}.middle.2", f"{middle}.resnets.1"),
        (f"{part}/head_0", f"{part}.head.0", f"{part}.norm_out", GAMMA_VIDEO),
        (f"{part}/head_2", f"{part}.head.2", f"{part}.conv_out", CONV3D),
    ]


def _residual(internal: str, wan: str, diffusers: str) -> list[tuple]:
    return [
        (f"{internal}/residual_0", f"{wan}.residual.0", f"{diffusers}.norm1", GAMMA_VIDEO),
        (f"{internal}/residual_2", f"{wan}.residual.2", f"{diffusers}.conv1", CONV3D),
        (f"{internal}/residual_3", f"{wan}.residual.3", f"{diffusers}.norm2", GAMMA_VIDEO),
        (f"{internal}/residual_6", f"{wan}.residual.6", f"{diffusers}.conv2", CONV3D),
        (f"{internal}/shortcut", f"{wan}.shortcut", f"{diffusers}.conv_shortcut", CONV3D),
    ]


def _resample(internal: str, wan: str, diffusers: str) -> list[tuple]:
    return [
        (f"{internal}/resample_1", f"{wan}.resample.1", f"{diffusers}.resample.1", CONV2D),
        (f"{internal}/time_conv", f"{wan}.time_conv", f"{diffusers}.time_conv", CONV3D),
    ]


_LEVEL = "decoder.up_blocks.{level}"
