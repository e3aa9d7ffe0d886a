"""Wan's transformer with what bvjax models may add to it, for diffusers.

    from diffusers import AutoModel
    model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)

or, with this file on the import path, `BvjaxTransformer3DModel.from_pretrained(FOLDER)`.  It is
called like `WanTransformer3DModel`: timestep = 1000 sigma, one for each sample or for each token,
and returns the velocity.
"""

from __future__ import annotations

import torch
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import (
    WanRotaryPosEmbed,
    WanTimeTextImageEmbedding,
)

WAVELENGTHS = 6  # from 2 pi to 64 pi tokens


class TellingPatches(torch.nn.Conv3d):
    """Patch embedding that can also tell each token its row and column, and the last latent before the chunk.

    Args:
        place: to the convolution a linear map of [cos | sin] of the row, then of the column, is added.
        previous: of twice as many channels the second half is that latent, repeated for each frame; it is
            convolved with weights of its own.
    """

    def __init__(
        self, in_channels: int, features: int, patch: tuple[int, ...], place: bool, previous: bool
    ):
        super().__init__(in_channels, features, kernel_size=patch, stride=patch)
        if place:
            self.place = torch.nn.Linear(4 * WAVELENGTHS, features, bias=False)
        if previous:
            self.previous = torch.nn.Conv3d(in_channels, features, patch, patch, bias=False)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        tokens = super().forward(latents[:, : self.in_channels])  # [b, d, l, h, w]
        if latents.shape[1] > self.in_channels:
            tokens = tokens + self.previous(latents[:, self.in_channels :])
        return tokens + self._place(tokens) if hasattr(self, "place") else tokens

    def _place(self, tokens: torch.Tensor) -> torch.Tensor:
        height, width = tokens.shape[-2:]
        frequency = 0.5 ** torch.arange(WAVELENGTHS, device=tokens.device)

        def waves(count: int) -> torch.Tensor:
            phase = torch.arange(count, device=tokens.device)[:, None] * frequency
            return torch.cat([phase.cos(), phase.sin()], dim=-1)

        rows = waves(height)[:, None].expand(-1, width, -1)
        columns = waves(width)[None].expand(height, -1, -1)
        features = torch.cat([rows, columns], dim=-1).to(self.place.weight.dtype)
        return self.place(features).permute(2, 0, 1)[:, None].to(tokens.dtype)


class ModulatedEmbedder(WanTimeTextImageEmbedding):
    """Embeddings of time and text, with a linear map of the caption's mean state added to that of time.

    Rows of the text after the caption are zeros and do not count.
    """

    def forward(self, timestep, encoder_hidden_states, *args, **kwargs):
        rows = (encoder_hidden_states != 0).any(-1).sum(-1, keepdim=True).clamp(min=1)
        text = self.text_modulation(encoder_hidden_states.sum(1) / rows)
        temb, _, states, image = super().forward(timestep, encoder_hidden_states, *args, **kwargs)
        if temb.shape[0] != text.shape[0]:  # a time for each token: [b n, d]
            text = text.repeat_interleave(temb.shape[0] // text.shape[0], dim=0)
        temb = temb + (text if temb.ndim == 2 else text[:, None]).to(temb.dtype)
        return temb, self.time_proj(self.act_fn(temb)), states, image


class BvjaxTransformer3DModel(WanTransformer3DModel):
    """`WanTransformer3DModel` and, each switched on by the configuration:

    Args:
        preconditioning: "none", or "linear": the network gives what is left of the velocity after its
            best linear guess from the noisy latents (Karras et al. 2022, Eq. 8).
        latents_spread: for that guess, the standard deviation of each latent channel after
            normalising; None for 1.
        spatial_position_embedding: tokens are told their row and column, not by RoPE alone.
        previous_latent: `forward` takes `previous`, the last latent before the chunk, [b, c, h, w].
        latents_correlation: for the guess, the correlation of neighbouring latents by channel; None for 0.
        text_modulation: the mean of a caption's states is added to the time embedding.
        similarity_keys: the weights have a vector for each head that attention to *earlier* chunks
            uses.  This class sees one chunk, so it keeps them and does not use them.
        rope_theta: base of RoPE's frequencies.
    """

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        preconditioning: str = "none",
        latents_spread: list[float] | None = None,
        spatial_position_embedding: bool = False,
        previous_latent: bool = False,
        latents_correlation: list[float] | None = None,
        text_modulation: bool = False,
        similarity_keys: bool = False,
        rope_theta: float = 10000.0,
    ):
        super().__init__(  # by keyword: diffusers takes the others for defaults
            patch_size=patch_size, num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim, in_channels=in_channels,
            out_channels=out_channels, text_dim=text_dim, freq_dim=freq_dim, ffn_dim=ffn_dim,
            num_layers=num_layers, cross_attn_norm=cross_attn_norm, qk_norm=qk_norm, eps=eps,
            image_dim=image_dim, added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len, pos_embed_seq_len=pos_embed_seq_len,
        )  # fmt: skip
        if preconditioning not in ("none", "linear"):
            raise ValueError(f"preconditioning is {preconditioning!r}; it can be none or linear")
        self.rope = WanRotaryPosEmbed(attention_head_dim, patch_size, rope_max_seq_len, rope_theta)
        if spatial_position_embedding or previous_latent:
            width = num_attention_heads * attention_head_dim
            self.patch_embedding = TellingPatches(
                in_channels, width, patch_size, spatial_position_embedding, previous_latent
            )
        if text_modulation:
            self.condition_embedder.__class__ = ModulatedEmbedder
            self.condition_embedder.text_modulation = torch.nn.Linear(
                text_dim, num_attention_heads * attention_head_dim, bias=False
            )
        if similarity_keys:
            for block in self.blocks:
                block.attn1.similarity_key = torch.nn.Parameter(
                    torch.zeros(num_attention_heads, attention_head_dim)
                )

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict | None = None,
        previous: torch.Tensor | None = None,
    ):
        """Behaves as `WanTransformer3DModel.forward`; models with `previous_latent` take `previous`, None for none."""
        if previous is not None and not self.config.previous_latent:
            raise ValueError("previous is given to a model without previous_latent")
        told = hidden_states
        if previous is not None:
            told = torch.cat([told, previous[:, :, None].expand_as(hidden_states)], dim=1)
        out = super().forward(
            told, timestep, encoder_hidden_states, encoder_hidden_states_image,
            return_dict=False, attention_kwargs=attention_kwargs,
        )[0]  # fmt: skip
        if self.config.preconditioning == "linear":
            sigma = self._sigma(timestep, hidden_states.shape)
            guessed = self._add_linear_guess(out.float(), hidden_states.float(), sigma, previous)
            out = guessed.to(out.dtype)
        return Transformer2DModelOutput(sample=out) if return_dict else (out,)

    def _sigma(self, timestep: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """[b] or [b, tokens] to sigma that multiplies latents [b, c, l, h, w]."""
        sigma = timestep.float() / 1000.0
        if sigma.ndim == 1:
            return sigma[:, None, None, None, None]
        tokens = [size // p for size, p in zip(shape[2:], self.config.patch_size, strict=True)]
        sigma = sigma.reshape(shape[0], 1, *tokens)
        for axis, p in enumerate(self.config.patch_size):
            sigma = sigma.repeat_interleave(p, dim=2 + axis)
        return sigma

    def _add_linear_guess(self, out, latents, sigma, previous):
        """(sigma - (1 - sigma) v) / s (x - (1 - sigma) m) - m - sqrt(v / s) out, s = sigma^2 + (1 - sigma)^2 v.

        m is r^d times the previous latent, d frames after it, and v the spread squared times 1 - r^(2 d).
        """
        spread = self.config.latents_spread or [1.0] * latents.shape[1]
        v = torch.tensor(spread, device=latents.device).square()[:, None, None, None]
        mean = 0.0
        if previous is not None and self.config.latents_correlation:
            r = torch.tensor(self.config.latents_correlation, device=latents.device)
            later = torch.arange(1, latents.shape[2] + 1, device=latents.device)
            r = (r[:, None] ** later)[:, :, None, None]
            mean, v = r * previous[:, :, None].float(), v * (1.0 - r.square())
        s = sigma.square() + (1.0 - sigma).square() * v
        beside = latents - (1.0 - sigma) * mean
        return (sigma - (1.0 - sigma) * v) / s * beside - mean - (v / s).sqrt() * out
