"""The PyTorch side of a chunk step: Wan's transformer with a cache of context, eager, with SDPA.

The layers do what diffusers' `WanTransformer3DModel` does, operation by operation (norms and
modulation in float32, projections, rotary embedding and feed-forward in the model's dtype), and self
attention also sees rows of earlier chunks.  Those wait in buffers whose head is written anew by every
pass, as rolling-cache implementations in PyTorch have it, so that no row is copied twice; there is
no padding.  Parameters have the original Wan2.1 names, and those of bvjax models their own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from bvjax.config import ModelConfig

Rope = tuple[torch.Tensor, torch.Tensor]  # cos and sin, [n, head_dim / 2], float32
Cache = list[tuple[torch.Tensor, torch.Tensor]]  # of each layer: keys, values [1, heads, rows, k]


def rotate(x: torch.Tensor, rope: Rope) -> torch.Tensor:
    """RoPE of [1, heads, n, k] whose pairs are neighbours."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rope
    out = torch.empty_like(x)
    out[..., 0::2] = even * cos - odd * sin
    out[..., 1::2] = even * sin + odd * cos
    return out


class Attention(nn.Module):
    """Projections of full width with RMS norms of queries and keys."""

    def __init__(self, dim: int, heads: int, eps: float):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = (nn.RMSNorm(dim, eps) for _ in range(2))

    def project(self, x, memory):
        projections = self.norm_q(self.q(x)), self.norm_k(self.k(memory)), self.v(memory)
        return [y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in projections]

    def attend(self, q, k, v):
        out = F.scaled_dot_product_attention(q, k, v)
        return self.o(out.transpose(1, 2).flatten(2))

    def forward(self, x, memory):
        return self.attend(*self.project(x, memory))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, ffn: int, eps: float):
        super().__init__()
        self.dim, self.eps = dim, eps
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))
        self.self_attn, self.cross_attn = (Attention(dim, heads, eps) for _ in range(2))
        self.norm3 = nn.LayerNorm(dim, eps)
        self.ffn = nn.Sequential(
            nn.Linear(dim, ffn), nn.GELU(approximate="tanh"), nn.Linear(ffn, dim)
        )

    def keys_and_values(self, x, e0):
        """Returns the keys and values of self-attention, before RoPE; [1, heads, n, k] each."""
        shift, scale = (self.modulation + e0).chunk(6, dim=1)[:2]
        y = self.normed(x, shift, scale)
        return self.self_attn.project(y, y)[1:]

    def forward(self, x, e0, text, rope: Rope, cache=None):
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (self.modulation + e0).chunk(6, dim=1)
        y = self.normed(x, shift_1, scale_1)
        q, k, v = self.self_attn.project(y, y)
        q, roped = rotate(q, rope), rotate(k, rope)
        keys, values = roped, v
        if cache is not None:
            keys, values = cache
            keys[:, :, : x.shape[1]] = roped
            values[:, :, : x.shape[1]] = v
        y = self.self_attn.attend(q, keys, values)
        x = (x.float() + y * gate_1).type_as(x)
        norm = F.layer_norm(
            x.float(), (self.dim,), self.norm3.weight.float(), self.norm3.bias.float(), self.eps
        )
        x = x + self.cross_attn(norm.type_as(x), text)
        y = self.ffn(self.normed(x, shift_2, scale_2))
        return (x.float() + y.float() * gate_2).type_as(x), k, v

    def normed(self, x, shift, scale):
        return (F.layer_norm(x.float(), (self.dim,), eps=self.eps) * (1 + scale) + shift).type_as(x)


class _Head(nn.Module):
    def __init__(self, dim: int, features: int):
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 2, dim))
        self.head = nn.Linear(dim, features)


class ChunkDiT(nn.Module):
    """Velocity of the latents of one chunk, [l, h, w, z] in and out."""

    def __init__(self, model: ModelConfig):
        super().__init__()
        dit = model.dit
        self.config, dim = dit, dit.dim
        self.patch_embedding = nn.Conv3d(dit.in_channels, dim, dit.patch, dit.patch)
        gelu = nn.GELU(approximate="tanh")
        self.text_embedding = nn.Sequential(
            nn.Linear(model.text.dim, dim), gelu, nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(dit.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        blocks = (Block(dim, dit.num_heads, dit.ffn_dim, dit.eps) for _ in range(dit.num_layers))
        self.blocks = nn.ModuleList(blocks)
        self.head = _Head(dim, dit.out_channels * torch.Size(dit.patch).numel())
        if dit.spatial_position_embedding:
            self.place_embedding = nn.Linear(24, dim, bias=False)
        if dit.similarity_keys:
            for block in self.blocks:
                shape = (dit.num_heads, dit.head_dim)
                block.self_attn.similarity_key = nn.Parameter(torch.zeros(shape))

    def cast(self, device: str, dtype: torch.dtype) -> ChunkDiT:
        """Moved; modulation and time embedding stay float32, as diffusers keeps them."""
        self.to(device, dtype)
        for block in self.blocks:
            block.modulation.data = block.modulation.data.float()
        for module in (self.head, self.time_embedding, self.time_projection):
            module.float()
        return self

    def embed_text(self, text: torch.Tensor) -> torch.Tensor:
        return self.text_embedding(text)

    def forward(
        self,
        latents: torch.Tensor,
        sigma: float,
        text: torch.Tensor,
        rope: Rope,
        places: torch.Tensor,
        cache: Cache | None = None,
        return_kv: bool = False,
    ):
        """One pass.

        Args:
            latents: float32 [l, h, w, z].
            text: [1, rows, width], not embedded yet: every pass embeds it, as in diffusers.
            places: [n, 24], features of rows and columns, for models that are told them.
            cache: of each layer the buffers whose rows from n on are context.
            return_kv: return keys (before RoPE) and values of each layer instead of a velocity; what
                comes behind those of the last layer is left out, as XLA does.
        """
        config, dtype = self.config, self.patch_embedding.weight.dtype
        x = self.patch_embedding(latents.permute(3, 0, 1, 2)[None].to(dtype))
        size = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        if config.spatial_position_embedding:
            x = x + self.place_embedding(places)
        e = self.time_embedding(_sinusoid(sigma, config.freq_dim, latents.device))
        e0 = self.time_projection(e).unflatten(-1, (6, -1))
        text, kept = self.embed_text(text), []
        for i, block in enumerate(self.blocks):
            if return_kv and i == len(self.blocks) - 1:
                return [*kept, block.keys_and_values(x, e0)]
            x, k, v = block(x, e0, text, rope, None if cache is None else cache[i])
            if return_kv:
                kept.append((k, v))
        shift, scale = (self.head.modulation + e[:, None]).chunk(2, dim=1)
        x = F.layer_norm(x.float(), (config.dim,), eps=config.eps) * (1 + scale) + shift
        x = self.head.head(x)[0].unflatten(0, size).unflatten(-1, (*config.patch, -1))
        velocity = x.permute(0, 3, 1, 4, 2, 5, 6).reshape(*latents.shape[:3], -1)
        if config.preconditioning == "linear":
            velocity = self._add_linear_guess(velocity, latents, sigma)
        return velocity

    def _add_linear_guess(self, out, latents, sigma):
        std = torch.tensor(self.config.latent_std or [1.0], device=latents.device)
        v = std.square()
        s = sigma**2 + (1 - sigma) ** 2 * v
        return (sigma - (1 - sigma) * v) / s * latents - (v / s).sqrt() * out


def _sinusoid(sigma: float, dim: int, device) -> torch.Tensor:
    half = dim // 2
    exponent = -torch.arange(half, dtype=torch.float64, device=device) / half
    phase = 1000.0 * sigma * 10000.0**exponent
    return torch.cat([phase.cos(), phase.sin()])[None].float()
