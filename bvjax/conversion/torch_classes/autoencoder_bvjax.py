"""Wan's VAE with pixels folded into channels and levels that keep their size, for diffusers.

    from diffusers import AutoModel
    vae = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)

or, with this file on the import path, `BvjaxAutoencoderKL.from_pretrained(FOLDER)`.  It is called
like `AutoencoderKLWan`; latents are normalised by the configuration's mean and std outside it.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, WanResidualBlock
from diffusers.models.autoencoders.vae import DecoderOutput


class BvjaxAutoencoderKL(AutoencoderKLWan):
    """`AutoencoderKLWan` with two more settings.

    Args:
        fold: squares of so many pixels a side become channels before the encoder (rows before
            columns before colours) and pixels again after the decoder.
        spatial_downsample: for each change of level, whether it halves height and width; None for
            all.  Where it does not, the decoder's way back does not halve the channels either.
    """

    @register_to_config
    def __init__(
        self,
        base_dim: int = 96,
        decoder_base_dim: int | None = None,
        z_dim: int = 16,
        dim_mult: tuple[int, ...] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        attn_scales: tuple[float, ...] = (),
        temperal_downsample: tuple[bool, ...] = (False, True, True),
        dropout: float = 0.0,
        latents_mean: tuple[float, ...] = (0.0,) * 16,
        latents_std: tuple[float, ...] = (1.0,) * 16,
        is_residual: bool = False,
        in_channels: int = 3,
        out_channels: int = 3,
        patch_size: int | None = None,
        scale_factor_temporal: int | None = 4,
        scale_factor_spatial: int | None = 8,
        fold: int = 1,
        spatial_downsample: tuple[bool, ...] | None = None,
    ):
        super().__init__(  # by keyword: diffusers takes the others for defaults
            base_dim=base_dim, decoder_base_dim=decoder_base_dim, z_dim=z_dim,
            dim_mult=list(dim_mult), num_res_blocks=num_res_blocks, attn_scales=list(attn_scales),
            temperal_downsample=list(temperal_downsample), dropout=dropout,
            latents_mean=latents_mean, latents_std=latents_std, is_residual=is_residual,
            in_channels=in_channels * fold**2, out_channels=out_channels * fold**2,
            patch_size=patch_size, scale_factor_temporal=scale_factor_temporal,
            scale_factor_spatial=scale_factor_spatial,
        )  # fmt: skip
        # what the parent has noted are the folded numbers
        self.register_to_config(in_channels=in_channels, out_channels=out_channels)
        halves = spatial_downsample or (True,) * (len(dim_mult) - 1)
        for level, (spatial, temporal) in enumerate(zip(halves, temperal_downsample, strict=True)):
            if not spatial:
                at = (level + 1) * (num_res_blocks + 1) - 1
                width = base_dim * dim_mult[level]
                self.encoder.down_blocks[at] = _in_time_alone(width, temporal and "downsample3d")
        pairs = list(zip(halves, temperal_downsample, strict=True))[::-1]
        for level, (spatial, temporal) in enumerate(pairs):
            if not spatial:
                width, following = (
                    (decoder_base_dim or base_dim) * dim_mult[::-1][level + i] for i in (0, 1)
                )
                blocks = self.decoder.up_blocks
                blocks[level].upsamplers[0] = _in_time_alone(width, temporal and "upsample3d")
                blocks[level + 1].resnets[0] = WanResidualBlock(width, following, dropout)

    def enable_tiling(self, *args, **kwargs):
        """Raises `NotImplementedError`: the parent's tiles do not count in folded pixels."""
        raise NotImplementedError("BvjaxAutoencoderKL has no tiling")

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        b, c, frames, height, width = x.shape
        p = self.config.fold
        x = x.reshape(b, c, frames, height // p, p, width // p, p).permute(0, 4, 6, 1, 2, 3, 5)
        return super()._encode(x.reshape(b, p * p * c, frames, height // p, width // p))

    def _decode(self, z: torch.Tensor, return_dict: bool = True):
        x = super()._decode(z, return_dict=False)[0]
        b, channels, frames, height, width = x.shape
        p = self.config.fold
        x = x.reshape(b, p, p, channels // p**2, frames, height, width)
        x = x.permute(0, 3, 4, 5, 1, 6, 2)
        x = x.reshape(b, channels // p**2, frames, height * p, width * p)
        return DecoderOutput(sample=x) if return_dict else (x,)


def _in_time_alone(width: int, mode: str | bool) -> WanResample:
    """Resampling in time, or none at all."""
    block = WanResample(width, mode or "none")
    block.resample = torch.nn.Identity()
    return block
