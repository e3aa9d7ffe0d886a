"""umT5 text encoder: T5 with a relative-position bias of its own in every layer.

Semantics follow the public umT5 / Wan2.1 encoder: pre-norm residual blocks, norms without mean or
bias, no biases anywhere, attention logits that are *not* scaled, gated GELU (tanh), a norm at the
end.  Compute follows the dtype of the parameters; norm statistics and softmax are float32.

Parameter names (leaves under `blocks` are stacked over layers on axis 0; PyTorch linear weights
are [out, in], kernels here [in, out]; `i` is the layer):

| here                            | Wan2.1 `models_t5_umt5-xxl`             | Hugging Face `UMT5EncoderModel`, under `encoder.`                |
|---------------------------------|-----------------------------------------|------------------------------------------------------------------|
| token_embedding/embedding       | token_embedding.weight                  | `shared.weight` (not under `encoder.`)                           |
| blocks/norm1/scale              | blocks.i.norm1.weight                   | block.i.layer.0.layer_norm.weight                                |
| blocks/attn/{q,k,v,o}/kernel    | blocks.i.attn.{q,k,v,o}.weight          | block.i.layer.0.SelfAttention.{q,k,v,o}.weight                   |
| blocks/pos_embedding/embedding  | blocks.i.pos_embedding.embedding.weight | block.i.layer.0.SelfAttention.relative_attention_bias.weight     |
| blocks/norm2/scale              | blocks.i.norm2.weight                   | block.i.layer.1.layer_norm.weight                                |
| blocks/ffn/gate/kernel          | blocks.i.ffn.gate.0.weight              | block.i.layer.1.DenseReluDense.wi_0.weight                       |
| blocks/ffn/fc1/kernel           | blocks.i.ffn.fc1.weight                 | block.i.layer.1.DenseReluDense.wi_1.weight                       |
| blocks/ffn/fc2/kernel           | blocks.i.ffn.fc2.weight                 | block.i.layer.1.DenseReluDense.wo.weight                         |
| norm/scale                      | norm.weight                             | final_layer_norm.weight                                          |
"""  # noqa: E501  (a table)

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from bvjax.config import TextConfig

EPS = 1e-6


def relative_buckets(length: int, num_buckets: int, max_distance: int) -> Int[np.ndarray, "t t"]:
    """Bucket of (query, key): T5's bidirectional scheme, exact when near, logarithmic when far.

    Half of the buckets are for keys at or before the query, half for keys after it.  In each half
    (size n = num_buckets / 2) distances below n/2 have a bucket of their own and larger ones share
    n/2 + floor(log(d / (n/2)) / log(max_distance / (n/2)) * n/2), at most n - 1.
    """
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]  # key - query
    half = num_buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    # float32 as in the reference: at d = 16, 32, 64 the quotient is a whole number up to rounding.
    far = np.log(np.maximum(distance, 1).astype(np.float32) / exact)
    far = far / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + far.astype(np.int32), half - 1)
    bucket = np.where(distance < exact, distance, far)
    return (bucket + half * (offset > 0)).astype(np.int32)


class T5Norm(nn.Module):
    """x / rms(x) * scale, statistics in float32; no mean, no bias."""

    @nn.compact
    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + EPS)
        return scale * x32.astype(scale.dtype)


def _linear(features: int, std: float, name: str) -> nn.Dense:
    return nn.Dense(features, use_bias=False, kernel_init=nn.initializers.normal(std), name=name)


class Attention(nn.Module):
    """Unscaled multi-head self-attention; T5's small initial q takes the place of the scale."""

    config: TextConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "b a t t"]
    ) -> Float[Array, "b t d"]:
        config = self.config
        heads, inner = (config.num_heads, config.head_dim), config.num_heads * config.head_dim
        q = _linear(inner, (config.dim * config.head_dim) ** -0.5, "q")(x)
        k = _linear(inner, config.dim**-0.5, "k")(x)
        v = _linear(inner, config.dim**-0.5, "v")(x)
        q, k, v = (y.reshape(*y.shape[:-1], *heads) for y in (q, k, v))
        logits = jnp.einsum("bqak,bsak->baqs", q, k, preferred_element_type=jnp.float32) + bias
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        out = jnp.einsum("baqs,bsak->bqak", weights, v).reshape(*x.shape[:-1], inner)
        return _linear(config.dim, inner**-0.5, "o")(out)


class FeedForward(nn.Module):
    """fc2(gelu(gate x) * fc1 x)."""

    config: TextConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        config = self.config
        gate = _linear(config.ffn_dim, config.dim**-0.5, "gate")(x)
        hidden = _linear(config.ffn_dim, config.dim**-0.5, "fc1")(x)
        hidden = nn.gelu(gate, approximate=True) * hidden
        return _linear(config.dim, config.ffn_dim**-0.5, "fc2")(hidden)


class Block(nn.Module):
    """One layer, shaped for `nn.scan`: (x, buckets, mask bias) -> (x, nothing)."""

    config: TextConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], buckets: Int[Array, "t t"], mask_bias: Float[Array, "b t"]
    ) -> tuple[Float[Array, "b t d"], None]:
        config = self.config
        std = (2 * config.num_buckets * config.num_heads) ** -0.5
        table = nn.Embed(
            config.num_buckets,
            config.num_heads,
            embedding_init=nn.initializers.normal(std),
            name="pos_embedding",
        )
        bias = table(buckets).transpose(2, 0, 1)[None].astype(jnp.float32)
        bias = bias + mask_bias[:, None, None, :]
        x = x + Attention(config, name="attn")(T5Norm(name="norm1")(x), bias)
        x = x + FeedForward(config, name="ffn")(T5Norm(name="norm2")(x))
        return x, None


class UMT5Encoder(nn.Module):
    """Token ids to text states."""

    config: TextConfig

    @nn.compact
    def __call__(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b t d"]:
        """States of the tokens; rows where `mask` is False are exactly zero.

        Tokens never attend to masked ones.  The zero rows are what the DiT's text embedding gets
        as padding.
        """
        config = self.config
        x = nn.Embed(
            config.vocab_size,
            config.dim,
            embedding_init=nn.initializers.normal(1.0),
            name="token_embedding",
        )(ids)
        buckets = jnp.asarray(
            relative_buckets(ids.shape[1], config.num_buckets, config.max_distance)
        )
        mask_bias = jnp.where(mask, jnp.float32(0.0), jnp.finfo(jnp.float32).min)
        layers = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=config.num_layers,
        )
        x, _ = layers(config, name="blocks")(x, buckets, mask_bias)
        return jnp.where(mask[..., None], T5Norm(name="norm")(x), 0)


def init_params(config: TextConfig, key: Array) -> dict[str, Any]:
    """Parameters of `UMT5Encoder(config)` as T5 starts them (float32)."""
    ids = jnp.zeros((1, 1), jnp.int32)
    return UMT5Encoder(config).init(key, ids, jnp.ones((1, 1), bool))["params"]


def mean_embedding(
    states: Float[Array, "b t d"], mask: Bool[Array | np.ndarray, "b t"]
) -> Float[Array, "b d"]:
    """Mean of the states of the valid tokens, float32: MEANEMBED of Algorithm 1.

    A row without a valid token gives zeros.
    """
    weights = mask.astype(jnp.float32)
    total = jnp.einsum("btd,bt->bd", states.astype(jnp.float32), weights)
    return total / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1.0)


def pooled_embedding(
    states: Float[Array, "b t d"], mask: Bool[Array | np.ndarray, "b t"], pool: str
) -> Float[Array, "b d"]:
    """One vector of each caption, float32: the mean of its tokens' states (`mean_embedding`), the last of them, or the
    largest value of each feature; `pool` is `TextConfig.pool`.

    A row without a valid token gives zeros.
    """
    if pool == "mean":
        return mean_embedding(states, mask)
    states, mask = states.astype(jnp.float32), jnp.asarray(mask)
    if pool == "max":
        largest = jnp.where(mask[..., None], states, -jnp.inf).max(axis=1)
        return jnp.where(mask.any(axis=1, keepdims=True), largest, 0.0)
    last = jnp.where(mask, jnp.arange(mask.shape[1]), -1).max(axis=1)
    rows = jnp.take_along_axis(states, jnp.maximum(last, 0)[:, None, None], axis=1)[:, 0]
    return jnp.where(last[:, None] >= 0, rows, 0.0)
