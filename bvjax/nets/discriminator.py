"""A critic of videos: a DiT that sees a window of chunks at once, and registers that read a logit from it.

The trunk is the generator's network with the generator's weights and names (`nets.dit`), but chunks of the window all
see each other, and there is no context.  Each chunk has its own caption, the whole video one noise level.  After some
layers, the *taps*, learned register tokens look at all tokens of the video:

  r <- r + attention(query r, keys and values LayerNorm(tokens)),    r <- r + FFN(LayerNorm(r))

and the logit is LayerNorm, Linear, SiLU, Linear of their concatenation.  This is the discriminator of Self-Forcing's
code, which has a register at each of three taps:

  Self-Forcing, Wan 1.3B                  taps 13, 21, 29 (from 0), FFN 8192   `DiscriminatorConfig()`
  One-Forcing, the same                   tap 29, FFN 512
  Helios, 14B, heads of another kind      taps 5, 15, 25, 35 and the end

Of its options, time embeddings beside the registers are left out (the trunk knows the level), and the last Linear starts
at zero here: every video then gets the logit 0, and at first only the heads learn.

The same trunk is the fake score of distribution matching (`velocity`), as One-Forcing and Helios share it: one network,
trained by both losses.  Who wants two networks makes two of them.  A light trunk has the first layers alone; its
velocities start as nobody's, so it needs training before it can be a fake score.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from bvjax.chunking import ChunkGrid
from bvjax.config import DiTConfig, ModelConfig
from bvjax.errors import UserError
from bvjax.nets import dit
from bvjax.nets.dit_layers import Block, CrossAttention, Mlp
from bvjax.sharding import ONE_DEVICE, Layout
from kernels_pallas.attention import attention

Params = dict[str, Any]  # {"trunk": those of a WanDiT, "heads": ...}


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of a critic; the defaults are Self-Forcing's for the 30 layers of Wan 1.3B."""

    taps: tuple[int, ...] = (13, 21, 29)  # layers after which registers look, from 0
    registers: int = 1  # at each tap
    num_heads: int = 0  # of their attention; 0 = the trunk's
    ffn_dim: int = 8192
    layers: int = 0  # of the generator's that the trunk keeps, the first ones; 0 = all

    def __post_init__(self):
        if (
            not self.taps
            or min(self.taps) < 0
            or any(b <= a for a, b in zip(self.taps, self.taps[1:], strict=False))
        ):
            raise UserError(
                f"discriminator.taps is {self.taps}; it must be ascending layers, the first of which is 0"
            )
        for name in ("registers", "ffn_dim"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"discriminator.{name} is {getattr(self, name)}; it must be 1 or more"
                )
        for name in ("num_heads", "layers"):
            if getattr(self, name) < 0:
                raise UserError(
                    f"discriminator.{name} is {getattr(self, name)}; it must be 0 or more"
                )


def default_taps(layers: int) -> tuple[int, ...]:
    """The taps of Self-Forcing, 13, 21 and 29 of 30 layers, at the same depths of a trunk of so many layers."""
    return tuple(sorted({max(tap * layers // 30 - 1, 0) for tap in (14, 22, 30)}))


def trunk_config(config: DiscriminatorConfig, dit: DiTConfig) -> DiTConfig:
    """The trunk as a DiT.

    Raises:
        UserError: it would have more layers than the generator, a tap is behind its last one, or the registers'
            heads do not divide its width.
    """
    layers = config.layers or dit.num_layers
    if layers > dit.num_layers:
        raise UserError(
            f"discriminator.layers is {layers}; it can be 1 to {dit.num_layers}, the layers of the generator"
        )
    if config.taps[-1] >= layers:
        raise UserError(
            f"discriminator.taps is {config.taps}; with a trunk of {layers} layers they can be 0 to {layers - 1}"
        )
    heads = config.num_heads or dit.num_heads
    if dit.dim % heads:
        raise UserError(f"discriminator.num_heads is {heads}; it must divide dit.dim = {dit.dim}")
    return dataclasses.replace(dit, num_layers=layers)


def init_params(
    config: DiscriminatorConfig, model: ModelConfig, generator_params: Any, key: Key[Array, ""]
) -> Params:
    """A critic that begins as a copy of the generator, with random heads and the logit 0 (traceable).

    Raises:
        UserError: as `trunk_config`, or the parameters are not those of `model.dit`.
    """
    trunk = trunk_config(config, model.dit)
    _check_shapes(
        "the generator's weights",
        generator_params,
        jax.eval_shape(lambda key: dit.init_params(model.dit, model.text.dim, key), key),
    )
    copied = {
        name: jax.tree.map(
            lambda x, kept=trunk.num_layers if name == "blocks" else None: jnp.copy(x[:kept]), part
        )
        for name, part in generator_params.items()
    }
    tokens = jnp.zeros((1, 1, 1, trunk.dim), jnp.float32)
    heads = _Heads(config, trunk).init(key, [tokens] * len(config.taps))["params"]
    return {"trunk": copied, "heads": heads}


def check_params(config: DiscriminatorConfig, model: ModelConfig, params: Params) -> None:
    """Raises `UserError` for parameters (or their shapes) of another critic, naming the first that differs."""

    def own(key):
        return init_params(config, model, dit.init_params(model.dit, model.text.dim, key), key)

    _check_shapes("the critic's weights", params, jax.eval_shape(own, jax.random.key(0)))


def logits(
    params: Params,
    config: DiscriminatorConfig,
    model: ModelConfig,
    latents: Float[Array, "b n l h w z"],
    sigma: Float[Array, "b"],
    text: Float[Array, "b n t dt"],
    *,
    layout: Layout = ONE_DEVICE,
) -> Float[Array, "b"]:
    """The logit of each video being real.

    Args:
        params: of `init_params`.
        config: static.
        model: of the generator; static.
        latents: n consecutive chunks of each video, noised to `sigma` (`losses.critic_levels`).
        sigma: one level a video.
        text: states of the captions, chunk by chunk.
        layout: static; the devices that share the work, as of the generator.

    Raises:
        UserError: as `trunk_config` and `WanDiT`.
    """
    _, taps = _run(params, config, model, latents, sigma, text, layout)
    return _read(params, config, model, taps, layout)


def velocity(
    params: Params,
    config: DiscriminatorConfig,
    model: ModelConfig,
    latents: Float[Array, "b n l h w z"],
    sigma: Float[Array, "b"],
    text: Float[Array, "b n t dt"],
    *,
    layout: Layout = ONE_DEVICE,
) -> Float[Array, "b n l h w z"]:
    """The velocity of all chunks of a window, each chunk knowing the others: the fake score.

    Arguments and errors are those of `logits`.  A trunk of all layers starts as the generator; where the score of a
    chunk is wanted given its history instead of its neighbours, `denoiser.passes.predict_velocity` takes
    `params["trunk"]` with a context.
    """
    return _run(params, config, model, latents, sigma, text, layout)[0]


def logits_and_velocity(
    params: Params,
    config: DiscriminatorConfig,
    model: ModelConfig,
    latents: Float[Array, "b n l h w z"],
    sigma: Float[Array, "b"],
    text: Float[Array, "b n t dt"],
    *,
    layout: Layout = ONE_DEVICE,
) -> tuple[Float[Array, "b"], Float[Array, "b n l h w z"]]:
    """`logits` and `velocity` of one pass."""
    out, taps = _run(params, config, model, latents, sigma, text, layout)
    return _read(params, config, model, taps, layout), out


def _run(params, config, model, latents, sigma, text, layout):
    """Returns the velocity, and the tokens [b, n, tokens, d] at each tap."""
    trunk = trunk_config(config, model.dit)
    layers = params["trunk"]["blocks"]
    block = Block(trunk, layout=layout, joint=True)

    is_tap = jnp.arange(trunk.num_layers)[:, None] == jnp.array(config.taps)

    def blocks(x, cond):
        def layer(x, params):
            return block.apply({"params": params}, x, None, None, cond)[0]

        if dit.REMAT[trunk.remat] is not None:
            layer = jax.checkpoint(layer, policy=dit.REMAT[trunk.remat], prevent_cse=False)

        def one(carry, inputs):
            (x, taps), (params, taps_here) = carry, inputs
            x = layer(x, params)
            # Chosen, not stacked: tokens of other layers need not be kept for the heads.
            taps = [jnp.where(here, x, tap) for here, tap in zip(taps_here, taps, strict=True)]
            return (x, taps), None

        start = x, [jnp.zeros_like(x)] * len(config.taps)
        return jax.lax.scan(one, start, (layers, is_tap))[0]

    b, chunks, frames = latents.shape[:3]
    positions = jnp.asarray(ChunkGrid.of(model).positions(chunks * frames))
    positions = jnp.broadcast_to(
        positions.reshape(chunks, -1, 3), (b, chunks, len(positions) // chunks, 3)
    )
    levels = jnp.broadcast_to(sigma[:, None], (b, chunks))
    net = dit.WanDiT(trunk, model.text.dim, layout, blocks)
    return net.apply(
        {"params": params["trunk"]}, latents, levels, text, positions, fps=model.chunk.fps
    )


def _read(params, config, model, taps, layout):
    trunk = trunk_config(config, model.dit)
    heads = jax.tree.map(layout.constrain, params["heads"])  # gathered whole when they are used
    return _Heads(config, trunk).apply({"params": heads}, taps)


def _check_shapes(what: str, params: Any, expected: Any) -> None:
    paths = lambda tree: {
        "/".join(str(k.key) for k in path): tuple(x.shape)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    has, needs = paths(params), paths(expected)
    for name in sorted(has.keys() | needs.keys()):
        if has.get(name) != needs.get(name):
            raise UserError(
                f"{what} have {name} of shape {has.get(name, 'none')}; this critic needs "
                f"{needs.get(name, 'no such tensor')}"
            )


class _RegisterAttention(CrossAttention):
    """Registers that look at tokens; plain XLA, since kernels want many queries."""

    def __call__(
        self, registers: Float[Array, "b r d"], tokens: Float[Array, "b s d"]
    ) -> Float[Array, "b r d"]:
        return self.merge(attention(*self.qkv(registers, tokens), implementation="xla"))


class _Tap(nn.Module):
    """The registers of one tap, after they have looked at the tokens."""

    config: DiscriminatorConfig
    trunk: DiTConfig

    @nn.compact
    def __call__(self, tokens: Float[Array, "b s d"]) -> Float[Array, "b r d"]:
        config, trunk = self.config, self.trunk
        norm = lambda name: nn.LayerNorm(
            epsilon=trunk.eps, use_fast_variance=False, dtype=jnp.float32, name=name
        )
        learned = self.param(
            "registers",
            nn.initializers.normal(0.02),
            (config.registers, trunk.dim),
            jnp.float32,
        )
        learned = nn.RMSNorm(epsilon=trunk.eps, dtype=jnp.float32, name="norm_registers")(learned)
        x = jnp.broadcast_to(learned, (len(tokens), *learned.shape))
        x = x + _RegisterAttention(trunk, name="cross_attn")(x, norm("norm_tokens")(tokens))
        ffn = Mlp(config.ffn_dim, trunk.dim, jax.nn.gelu, jnp.dtype(trunk.dtype), name="ffn")
        return x + ffn(norm("norm_ffn")(x))


class _Heads(nn.Module):
    """A logit from the tokens at the taps."""

    config: DiscriminatorConfig
    trunk: DiTConfig

    @nn.compact
    def __call__(self, taps: list[Float[Array, "b n s d"]]) -> Float[Array, "b"]:
        config = self.config
        heads = config.num_heads or self.trunk.num_heads
        trunk = dataclasses.replace(self.trunk, num_heads=heads, similarity_keys=False)
        # Tokens of all chunks in one row, the chunk as the inner index: so they stay on the devices that have them.
        rows = [x.swapaxes(1, 2).reshape(len(x), -1, x.shape[-1]) for x in taps]
        read = [_Tap(config, trunk, name=f"tap_{i}")(x) for i, x in enumerate(rows)]
        x = jnp.concatenate(read, axis=1).reshape(len(read[0]), -1)
        x = nn.LayerNorm(
            epsilon=trunk.eps, use_fast_variance=False, dtype=jnp.float32, name="norm"
        )(x)
        out = Mlp(trunk.dim, 1, nn.silu, jnp.float32, last_init=nn.initializers.zeros, name="head")
        return out(x)[:, 0]
