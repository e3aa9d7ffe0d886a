"""Wan2.1 diffusion transformer, made chunk-causal by an explicit chunk axis and a context argument.

Parameter names are those of the PyTorch checkpoints with "/" for ".", except:

  here                                        Wan2.1 (original names)
  blocks/...  [Y, ...]                        blocks.i....  (stacked on axis 0)
  .../kernel  [in, out]                       ....weight  [out, in]
  .../scale                                   ....weight  (norm_q, norm_k, norm3)
  patch_embedding/kernel  [c*pt*ph*pw, D]     patch_embedding.weight  [D, c, pt, ph, pw]
  blocks/modulation  [Y, 6, D]                blocks.i.modulation  [1, 6, D]
  head/modulation  [2, D]                     head.modulation  [1, 2, D]

norm3 is the affine norm before cross-attention (diffusers calls it norm2).  fps_embedding/embedding [2, D]
and fps_projection/{0,2} are SkyReels-V2's (`fps_embedding`).  blocks/self_attn/similarity_key
[Y, heads, k] (`similarity_keys`) and place_embedding/kernel [24, D] (`spatial_position_embedding`) are ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, Int, Real

from bvjax.config import DiTConfig
from bvjax.errors import UserError
from bvjax.nets.dit_layers import (
    XAVIER,
    Block,
    ChunkKV,
    Conditioning,
    Context,
    Entries,
    LayerNorm,
    Mlp,
    SelfContext,
)
from bvjax.nets.previous_latent import PreviousLatent, to_all_frames
from bvjax.nets.previous_latent import explained as explained_by_previous
from bvjax.nets.probing import OWN_KEYS, Probing
from bvjax.nets.rope import angles
from bvjax.sharding import ONE_DEVICE, TOKENS, Layout

__all__ = [
    "ChunkKV",
    "Context",
    "Entries",
    "Probing",
    "PreviousLatent",
    "SelfContext",
    "WanDiT",
    "init_params",
    "timestep_embedding",
]

# What the backward pass recomputes -> the policy for nn.remat (None: no remat at all).
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
_NORMAL = nn.initializers.normal(0.02)
# Parts that a model may be given after training: they begin at zero and leave it as it was.
ZERO_START = ("place_embedding", "previous_embedding", "text_modulation")


def timestep_embedding(t: Float[Array, "*s"], dim: int) -> Float[Array, "*s dim"]:
    """[cos | sin] of t * 10000^(-i / half), half = dim / 2, t on the 0 .. 1000 scale.

    Frequencies are computed in float64 and the product in float32: up to t = 1000 each entry is
    within 1e-4 of the float64 value (half an ulp of t times the frequency, twice).
    """
    half = dim // 2
    frequency = 10000.0 ** (-np.arange(half, dtype=np.float64) / half)
    phase = t[..., None].astype(jnp.float32) * jnp.asarray(frequency, jnp.float32)
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)


PRECONDITIONING = ("none", "linear")


class _TimeProjection(nn.Module):
    """SiLU, Linear (named 1 as in an `nn.Sequential`): e -> the six modulation vectors e0."""

    features: int

    @nn.compact
    def __call__(self, e):
        project = nn.Dense(self.features, kernel_init=XAVIER, precision="highest", name="1")
        return project(nn.silu(e))


class _Head(nn.Module):
    """Norm, modulation by e (not e0), Linear to the patch; all float32 as in Wan."""

    config: DiTConfig
    layout: Layout

    @nn.compact
    def __call__(self, x: Float[Array, "b c n d"], e: Float[Array, "b c f d"]):
        config = self.config
        modulation = self.param(
            "modulation", nn.initializers.normal(config.dim**-0.5), (2, config.dim), jnp.float32
        )
        shift, scale = modulation[0] + e, modulation[1] + e
        x = LayerNorm(config.eps, self.layout, name="norm")(x, shift, scale)
        features = int(np.prod(config.patch)) * config.out_channels
        return nn.Dense(
            features, kernel_init=nn.initializers.zeros, precision="highest", name="head"
        )(x)


class WanDiT(nn.Module):
    """Velocity of noisy latents, chunk by chunk; on a mesh where `layout` has one."""

    config: DiTConfig
    text_dim: int
    layout: Layout = ONE_DEVICE
    # (tokens, cond) -> (tokens, anything), in place of the layers under "blocks".
    blocks: Callable[[Array, Conditioning], tuple[Array, Any]] | None = None

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "b c l h w z"],
        sigma: Float[Array, "b c"] | Float[Array, "b c l"],
        text: Float[Array, "b ct t dt"],
        positions: Real[Array, "b c n 3"],
        context: Context | None = None,
        probe_index: Int[Array, "p"] | None = None,
        probe_visible: Int[Array, "p"] | None = None,
        *,
        return_kv: bool = False,
        self_context: SelfContext | None = None,
        entries: Entries | None = None,
        previous: PreviousLatent | None = None,
        keep_fn=None,
        probing: Probing = OWN_KEYS,
        fps: int | None = None,
        text_zeros: int = 0,
    ) -> tuple[Float[Array, "b c l h w z"], Any]:
        """One forward pass of all chunks, each on its own.

        Args:
          latents: noisy (or clean) latents.
          sigma: noise level in [0, 1] per chunk or per latent frame; the timestep is 1000 sigma.
          text: text states; rows past the caption are zeros and are attended like the others.
            Chunks that follow each other may share a caption: c must be a multiple of ct.
          positions: RoPE positions (t, h, w) of each chunk's own tokens.
          context: rows of earlier chunks that each chunk may attend; None for none.
          probe_index: tokens whose queries score the chunk's keys (Alg. 2); None: zero importance.
          probe_visible: how many of the chunk's first keys each probe sees; None for all.
          return_kv: whether to return the chunks' keys, values and importance.  Static.
          self_context: chunks to attend as well, their rows gathered layer by layer, where they are
            computed again in the backward pass: those of `entries` through the rows that these keep, or
            of this same sequence through those that `keep_fn` keeps (`build.context = "with"`).
          entries: what `self_context` reads; None: this sequence.
          previous: the last latent before each chunk, for models with `previous_latent`; None: there is none.
          keep_fn: importance [b, c, n] -> kept rows bool [b, c, n]; None keeps all.  Static.
          probing: how importances are made; by head they are [b, c, a, n], and so is what `keep_fn` keeps.  Static.
          fps: frames per second of the video; only models with `fps_embedding` need it.  Static.
          text_zeros: rows of zeros that come after those of `text`; all are alike, so one is computed
            and counts as so many.  Static.

        Returns:
          Float32 velocity, shaped as `latents` with `out_channels`, and the ChunkKV or None, or
          what `blocks` returns second.

        Raises:
          UserError: `config.remat` is unknown, or shapes do not fit the patch, `text_dim` or each
            other, or `fps_embedding` has no `fps`.
        """
        config, (_, _, frames, height, width, _) = self.config, latents.shape
        _check(config, self.text_dim, latents, sigma, text, positions, context)
        pt, ph, pw = config.patch
        patches = rearrange(
            latents, "b c (l pt) (h ph) (w pw) z -> b c (l h w) (z pt ph pw)", pt=pt, ph=ph, pw=pw
        )
        patches = self._on_tokens(patches)
        x = nn.Dense(config.dim, dtype=config.dtype, kernel_init=XAVIER, name="patch_embedding")(
            patches
        )

        if config.spatial_position_embedding:
            place = nn.Dense(
                config.dim,
                use_bias=False,
                kernel_init=nn.initializers.zeros,
                name="place_embedding",
            )
            x = x + place(place_features(positions[..., 1:])).astype(x.dtype)

        if config.previous_latent and (previous is not None or self.is_initializing()):
            embed = nn.Dense(
                config.dim,
                use_bias=False,
                dtype=config.dtype,
                kernel_init=nn.initializers.zeros,
                name="previous_embedding",
            )
            known = PreviousLatent.none(latents) if previous is None else previous
            x = x + to_all_frames(embed(known.patches(config.patch)), frames)

        sigma = sigma if sigma.ndim == 3 else sigma[..., None]
        sinusoid = timestep_embedding(1000.0 * sigma.astype(jnp.float32), config.freq_dim)
        e = Mlp(
            config.dim, config.dim, nn.silu, jnp.float32, _NORMAL, "highest", name="time_embedding"
        )(sinusoid)
        if config.text_modulation:
            modulate = nn.Dense(
                config.dim,
                use_bias=False,
                kernel_init=nn.initializers.zeros,
                precision="highest",
                name="text_modulation",
            )
            mean = modulate(mean_state(text))[:, :, None]
            e = e + jnp.repeat(mean, latents.shape[1] // text.shape[1], axis=1)
        e0 = _TimeProjection(6 * config.dim, name="time_projection")(e)
        if config.fps_embedding:
            if fps is None:
                raise UserError("dit.fps_embedding needs the frames per second of the video")
            e0 = e0 + self._frame_rate(fps)
        embed_text = Mlp(
            config.dim, config.dim, nn.gelu, config.dtype, _NORMAL, name="text_embedding"
        )
        if text_zeros:
            text = jnp.pad(text, ((0, 0), (0, 0), (0, 1), (0, 0)))
        cond = Conditioning(
            modulation=e0.reshape(*e.shape[:-1], 6, config.dim),
            text=embed_text(text),
            angles=self._on_tokens(angles(positions, config.head_dim, config.rope_theta)),
            probe_index=probe_index,
            probe_visible=probe_visible,
            self_context=self_context,
            last_text_row=max(text_zeros, 1),
            probing=probing,
        )
        x = self._on_tokens(x.astype(jnp.float32))
        if self.blocks is not None:
            x, second = self.blocks(x, cond)
        else:
            x, second = self._stacked(return_kv, keep_fn)(x, context, entries, cond)

        out = _Head(config, self.layout, name="head")(x, e)
        velocity = rearrange(
            out, "b c (l h w) (pt ph pw z) -> b c (l pt) (h ph) (w pw) z",
            l=frames // pt, h=height // ph, w=width // pw, pt=pt, ph=ph, pw=pw,
        )  # fmt: skip
        if config.preconditioning == "linear":
            mean, share = explained_by_previous(previous, config.latent_correlation, frames)
            velocity = add_linear_guess(velocity, latents, sigma, config.latent_std, mean, share)
        return velocity, second

    def _stacked(self, return_kv, keep_fn):
        config, block = self.config, Block
        if REMAT[config.remat] is not None:
            block = nn.remat(Block, policy=REMAT[config.remat], prevent_cse=False)
        return nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast),
            length=config.num_layers,
        )(config, return_kv=return_kv, keep_fn=keep_fn, layout=self.layout, name="blocks")

    def _on_tokens(self, x: Float[Array, "b c n d"]) -> Float[Array, "b c n d"]:
        return self.layout.constrain(x, self.layout.rows(x.shape[0]), None, TOKENS)

    def _frame_rate(self, fps: int) -> Float[Array, "f"]:
        """Returns the addition of SkyReels-V2 to e0 of all frames: a row for 16 fps or one for any other rate.

        Its last layer starts at zero, so a model that is given one starts unchanged.
        """
        dim = self.config.dim
        row = nn.Embed(2, dim, embedding_init=nn.initializers.normal(1.0), name="fps_embedding")(
            jnp.int32(fps != 16)
        )
        return Mlp(
            dim,
            6 * dim,
            nn.silu,
            jnp.float32,
            precision="highest",
            last_init=nn.initializers.zeros,
            name="fps_projection",
        )(row)


def add_linear_guess(
    out: Float[Array, "b c l h w z"],
    latents: Float[Array, "b c l h w z"],
    sigma: Float[Array, "b c f"],
    std: tuple[float, ...] = (),
    mean: Float[Array, "b c l h w z"] | float = 0.0,
    explained: Float[Array, "b c l 1 1 z"] | float = 0.0,
) -> Float[Array, "b c l h w z"]:
    """Velocity whose part that needs no network is computed: (sigma - (1 - sigma) v) / s x - sqrt(v / s) out.

    v = std^2 is the variance of the latents' channels (1 by default) and s = sigma^2 + (1 - sigma)^2 v that
    of x_sigma. The first term is the velocity's least-squares linear guess from x_sigma; what is left, in
    the network's scale, is (sigma x_0 - (1 - sigma) v eps) / sqrt(v s), of variance 1 and uncorrelated with
    x_sigma (the preconditioning of Karras et al. 2022, Eq. 8, for the interpolant of Eq. 2). A narrow network
    then need not carry noise that it can say nothing about.

    Where latents are known to have another `mean` than 0, which explains a share of their variance, all of this
    holds of what they are beside it: x_0 - mean, of variance (1 - explained) v.
    """
    sigma = sigma.astype(jnp.float32)[..., None, None, None]
    v, s = variances(sigma, std, explained)
    beside = latents - (1.0 - sigma) * mean
    return (sigma - (1.0 - sigma) * v) / s * beside - mean - out * jnp.sqrt(v / s)


def mean_state(text: Float[Array, "b c t dt"]) -> Float[Array, "b c dt"]:
    """The mean of the rows that belong to the caption: those after it are zeros."""
    text = text.astype(jnp.float32)
    rows = jnp.any(text != 0, axis=-1).sum(-1, keepdims=True)
    return text.sum(axis=2) / jnp.maximum(rows, 1)


def place_features(place: Real[Array, "*n 2"]) -> Float[Array, "*n f"]:
    """[cos | sin] of h, then of w, at six wavelengths from 2 pi to 64 pi tokens: 24 features.

    RoPE tells attention how far apart two tokens are, and nothing tells a token where in the frame it is until its
    neighbours show something: in pure noise, nothing does.
    """
    phase = place[..., None].astype(jnp.float32) * jnp.asarray(0.5 ** np.arange(6), jnp.float32)
    features = jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)
    return features.reshape(*place.shape[:-1], -1)


def variances(
    sigma: Float[Array, "*#n 1"],
    std: tuple[float, ...],
    explained: Float[Array, "*#n z"] | float = 0.0,
) -> tuple[Float[Array, "*v"], Float[Array, "... z"]]:
    """By channel, of the latents, v = std^2 (1 by default), and of x_sigma, sigma^2 + (1 - sigma)^2 v.

    A share of v that is `explained` by something else is left out of both.
    """
    v = jnp.square(jnp.array(std or 1.0, jnp.float32)) * (1.0 - explained)
    return v, sigma**2 + (1.0 - sigma) ** 2 * v


def _check(config, text_dim, latents, sigma, text, positions, context):
    if config.remat not in REMAT:
        raise UserError(f"dit.remat is {config.remat!r}; it can be {', '.join(REMAT)}")
    if config.preconditioning not in PRECONDITIONING:
        raise UserError(
            f"dit.preconditioning is {config.preconditioning!r}; it can be {', '.join(PRECONDITIONING)}"
        )
    size, channels = latents.shape[2:5], latents.shape[5]
    if any(n % p for n, p in zip(size, config.patch, strict=True)):
        raise UserError(
            f"latents of size {size} (l, h, w) do not divide by the patch {config.patch}"
        )
    if channels != config.in_channels:
        raise UserError(f"latents have {channels} channels; this model takes {config.in_channels}")
    if text.shape[-1] != text_dim:
        raise UserError(f"text states have width {text.shape[-1]}; this model takes {text_dim}")
    if latents.shape[1] % text.shape[1]:
        raise UserError(f"{latents.shape[1]} chunks cannot share {text.shape[1]} captions")
    tokens = int(np.prod(size)) // int(np.prod(config.patch))
    if positions.shape[-2] != tokens:
        raise UserError(f"got {positions.shape[-2]} positions for {tokens} tokens a chunk")
    if sigma.ndim == 3 and sigma.shape[2] != size[0] // config.patch[0]:
        raise UserError(f"got {sigma.shape[2]} sigmas a chunk; give one, or one per latent frame")
    if context is not None and (context.length is None) == (context.mask is None):
        raise UserError("a Context needs exactly one of length and mask")
    if config.similarity_keys and context is not None and context.similarity is None:
        raise UserError("dit.similarity_keys needs the similarity of each row of the Context")


def init_params(config: DiTConfig, text_dim: int, key: Array) -> dict:
    """Wan's initialisation, float32; traceable, so that shapes and shardings can be had of it.

    Xavier-uniform linears with zero biases, N(0, 0.02) text and time embeddings, modulation
    randn / sqrt(dim), zero head.
    """
    latents = jnp.zeros((1, 1, *config.patch, config.in_channels), jnp.float32)
    text = jnp.zeros((1, 1, 1, text_dim), jnp.float32)
    positions = jnp.zeros((1, 1, 1, 3), jnp.int32)
    init = functools.partial(WanDiT(config, text_dim).init, fps=16)
    return jax.jit(init)(key, latents, jnp.zeros((1, 1), jnp.float32), text, positions)["params"]
