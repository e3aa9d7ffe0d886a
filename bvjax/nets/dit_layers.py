"""Layers of the Wan2.1 DiT with an explicit chunk axis, and what they exchange: context, chunk KV.

Tokens are [batch, chunk, token, dim].  A chunk's tokens all see each other and the chunk's context
rows, and never another chunk of the axis; history enters only as context.  Layers that are `joint`
have no context, and their chunks all see each other: those of a critic, `nets.discriminator`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Real

from bvjax.config import DiTConfig
from bvjax.nets.attend import AttendedRows, attend
from bvjax.nets.matmul_precision import dense_matmul
from bvjax.nets.probing import OWN_KEYS, Probing, added_similarity, kept_in_order, probe_importance
from bvjax.nets.rope import apply_rope
from bvjax.nets.routing import Route, routed_attention
from bvjax.nets.source_rows import gather_context, per_row
from bvjax.sharding import ONE_DEVICE, TOKENS, Layout

XAVIER = nn.initializers.xavier_uniform()


@struct.dataclass
class Context:
    """Rows of earlier chunks that each chunk attends, per layer: normed, already rotated keys.

    Exactly one of `length` (the first rows are valid) and `mask` is given.  Inside a layer the
    leading layer axis is absent.
    """

    keys: Float[Array, "y b c s a k"]
    values: Float[Array, "y b c s a k"]
    length: Int[Array, "y b c"] | None = None
    mask: Bool[Array, "y b c s"] | None = None
    similarity: Float[Array, "y b c s"] | None = None  # of rows' entries: `dit.similarity_keys`
    heads: Bool[Array, "y b c s a"] | None = None  # that see each row: `memory.granularity` "head"
    owner: Int[Array, "y b c s"] | None = None  # entry of each row, the number of entries for none
    route: Route | None = struct.field(pytree_node=False, default=None)  # by `owner`


@struct.dataclass
class ChunkKV:
    """The inputs of BuildSparseKV from an encoded chunk: keys after qk-norm and before RoPE."""

    keys: Float[Array, "y b c n a k"]
    values: Float[Array, "y b c n a k"]
    # Under the probes, zeros when there were none; [y b c a n] where it is by head.
    importance: Float[Array, "y b c *n"]


@struct.dataclass
class Entries:
    """Keys (before RoPE) and values of encoded chunks, and the rows that their memory keeps."""

    keys: Float[Array, "y b s n a k"]
    values: Float[Array, "y b s n a k"]
    keep: Bool[Array, "y b s *n"]  # n, or a n where heads keep rows of their own


@struct.dataclass
class SelfContext:
    """The sources that each chunk attends: `Entries`, or chunks of the same sequence (`build.context = "with"`).

    Causality lies in `index`: it must name earlier chunks wherever `valid` is true.  Without it the sources
    lie in the order of the chunks that see them: those of the first, those of the second, ...
    """

    index: Int[Array, "b c e"] | None  # source along the chunk axis
    valid: Bool[Array, "b c e"]
    entry_positions: Real[Array, "b c e n 3"]  # RoPE positions of the source's tokens from here
    similarity: Float[Array, "b c e"] | None = None  # for `dit.similarity_keys`
    dense: Bool[Array, "b c e"] | None = None  # read with all rows, not the kept ones; None: never
    own: Bool[Array, "b c n"] | None = None  # rows of itself that a chunk sees; None: all
    # Rows that a chunk can see at most, its own and those of its `Context` too; None: all there are.
    most_rows: int | None = struct.field(pytree_node=False, default=None)


@struct.dataclass
class Conditioning:
    """Inputs that all layers share."""

    modulation: Float[Array, "b c f 6 d"]  # f = 1: one sigma a chunk; f = L: one a latent frame
    text: Float[Array, "b ct t d"]
    angles: Float[Array, "b c n half"]
    probe_index: Int[Array, "p"] | None
    probe_visible: Int[Array, "p"] | None
    self_context: SelfContext | None
    last_text_row: int = struct.field(pytree_node=False, default=1)  # how many rows it stands for
    probing: Probing = struct.field(pytree_node=False, default=OWN_KEYS)


class Mlp(nn.Module):
    """Linear, activation, Linear, named 0 and 2 as in an `nn.Sequential`."""

    hidden: int
    features: int
    activation: Callable[[Array], Array]
    dtype: jnp.dtype
    kernel_init: Callable = XAVIER
    precision: str | None = None
    matmul_precision: str = "float32"
    last_init: Callable | None = None  # of the second kernel; None = kernel_init
    layout: Layout | None = None  # of an MLP of tokens, whose hidden features are cut

    @nn.compact
    def __call__(self, x):
        column, row = sharded_matmuls(self.layout or ONE_DEVICE, self.matmul_precision)
        options = dict(dtype=self.dtype, precision=self.precision)
        first = nn.Dense(
            self.hidden, kernel_init=self.kernel_init, dot_general=column, name="0", **options
        )
        last_init = self.last_init or self.kernel_init
        last = nn.Dense(self.features, kernel_init=last_init, dot_general=row, name="2", **options)
        return last(self.activation(first(x)))


def sharded_matmuls(
    layout: Layout, matmul_precision: str, rows: tuple[str, ...] | None = TOKENS
) -> tuple[Callable | None, Callable | None]:
    """`dot_general` of the two projections around sharded features (heads, the FFN's hidden ones).

    The first has its outputs sharded over `tensor`, the second sums over them.  Both gather their
    kernel from `fsdp` first, in the dtype that it multiplies in, and leave rows (tokens, sharded over
    `rows`) where they are.
    """
    matmul = dense_matmul(matmul_precision)
    if layout.mesh is None:
        return matmul, matmul

    def sharded(kernel_axes, features):
        def dot_general(x, kernel, dimensions, **options):
            kernel = layout.constrain(kernel, *kernel_axes)
            out = (matmul or jax.lax.dot_general)(x, kernel, dimensions, **options)
            return layout.constrain(out, layout.rows(x.shape[0]), None, rows, features)

        return dot_general

    return sharded((None, "tensor"), "tensor"), sharded(("tensor", None), None)


class _Projections(nn.Module):
    """q, k, v, o of full width; q and k are RMS-normalised over all heads together."""

    config: DiTConfig
    layout: Layout = ONE_DEVICE
    memory_rows = TOKENS  # mesh axes of the rows that k and v are made of

    def setup(self):
        column, row = sharded_matmuls(self.layout, self.config.matmul_precision)
        memory_column, _ = sharded_matmuls(
            self.layout, self.config.matmul_precision, self.memory_rows
        )
        for name, matmul in dict(q=column, k=memory_column, v=memory_column, o=row).items():
            options = dict(dtype=self.config.dtype, kernel_init=XAVIER, dot_general=matmul)
            setattr(self, name, nn.Dense(self.config.dim, **options))
        first = nn.initializers.constant(self.config.qk_init)
        self.norm_q = nn.RMSNorm(epsilon=self.config.eps, dtype=self.config.dtype, scale_init=first)
        self.norm_k = nn.RMSNorm(epsilon=self.config.eps, dtype=self.config.dtype)

    def heads(self, x):
        return x.reshape(*x.shape[:-1], self.config.num_heads, self.config.head_dim)

    def qkv(self, x, memory):
        q, k = self.norm_q(self.q(x)), self.norm_k(self.k(memory))
        return self.heads(q), self.heads(k), self.heads(self.v(memory))

    def merge(self, x):
        return self.o(x.reshape(*x.shape[:-2], self.config.dim))


class SelfAttention(_Projections):
    """Attention of a chunk over its own tokens, its context, and chunks of its own sequence.

    With `similarity_keys` a learned vector u per head, times the similarity of the entry's caption to the
    chunk's (Eq. 8), is added to the entry's keys: the logit of a query q gets q u similarity.  Which entry a
    caption speaks of is then known to attention, and need not be worked out from names.
    """

    return_kv: bool = False
    keep_fn: Callable[[Array], Array] | None = None
    joint: bool = False

    def setup(self):
        super().setup()
        if self.config.similarity_keys:
            shape = (self.config.num_heads, self.config.head_dim)
            self.similarity_key = self.param(
                "similarity_key", nn.initializers.zeros, shape, jnp.float32
            )

    def __call__(
        self,
        x: Float[Array, "b c n d"],
        context: Context | None,
        entries: Entries | None,
        cond: Conditioning,
    ) -> tuple[Float[Array, "b c n d"], ChunkKV | None]:
        q, k, v = self.qkv(x, x)
        q, rotated = (apply_rope(x, cond.angles, self.layout.kernels) for x in (q, k))
        over_all = cond.probing.over_all and cond.probe_index is not None
        importance: Any = None if over_all else self._importance(q, rotated, cond)
        own = None if cond.self_context is None else cond.self_context.own
        parts, length = [AttendedRows(rotated, v, own)], None
        if context is not None:
            keys, mask = self._alike(context.keys.astype(k.dtype), context.similarity), None
            if context.route is not None and cond.self_context is None:
                assert context.owner is not None
                rows = AttendedRows(keys, context.values.astype(v.dtype))
                out = routed_attention(
                    context.route, q, parts[0], rows, context.owner, self.layout.kernels
                )
                return self.merge(out), ChunkKV(k, v, importance) if self.return_kv else None
            if context.length is not None and context.heads is None and cond.self_context is None:
                length = k.shape[2] + context.length
            else:
                mask = _row_mask(context)
            parts.append(AttendedRows(keys, context.values.astype(v.dtype), mask))
        seen = tuple(parts[1:])
        if context is not None and length is not None and over_all:
            seen = (AttendedRows(seen[0].keys, seen[0].values, _row_mask(context)),)
        most_rows = None
        if cond.self_context is not None:
            if entries is None:
                if over_all:
                    importance, kept = kept_in_order(
                        self.layout, self.config.rope_theta, self.keep_fn, q, k, rotated, seen, cond,
                        self._similarity_key(),
                    )  # fmt: skip
                elif self.keep_fn is None:
                    kept = jnp.ones(k.shape[:3], bool)
                else:
                    kept = self.keep_fn(importance)
                entries = Entries(k, v, kept)
            source, most_rows = cond.self_context, cond.self_context.most_rows
            more = gather_context(
                entries.keys.astype(k.dtype), entries.values.astype(v.dtype), entries.keep,
                source.index, source.valid, source.entry_positions, self.config.rope_theta,
                self.layout, source.dense,
            )  # fmt: skip
            similarity = source.similarity
            if similarity is not None:
                similarity = per_row(self.layout, similarity, entries.keys.shape[2])
            parts.append(AttendedRows(self._alike(more[0], similarity), *more[1:]))
        if importance is None:
            importance = self._importance(q, rotated, cond, seen)
        out = attend(self.layout, q, tuple(parts), length, joint=self.joint, most_keys=most_rows)
        return self.merge(out), ChunkKV(k, v, importance) if self.return_kv else None

    def _alike(self, keys, similarity):
        """Keys [b, c, s, a, k] with what `similarity` [b, c, s] adds; the logits' 1 / sqrt(k) is undone."""
        key = self._similarity_key()
        return keys if key is None else added_similarity(keys, similarity, key)

    def _similarity_key(self):
        if not self.config.similarity_keys:
            return None
        return self.config.head_dim**0.5 * self.similarity_key

    def _importance(self, q, rotated_k, cond, seen=()):
        """Alg. 2, lines 8-9, with the rows `seen` among those that share attention.  Selection is not differentiated."""
        if cond.probe_index is None:
            return jnp.zeros(rotated_k.shape[:3], jnp.float32)
        q, k, seen = jax.lax.stop_gradient((q, rotated_k, seen))
        return probe_importance(self.layout, q, k, cond, seen)


def _row_mask(context: Context) -> Bool[Array, "b c s"] | Bool[Array, "b c a s"]:
    mask = context.mask
    if mask is None:
        mask = jnp.arange(context.keys.shape[2]) < context.length[..., None]
    return mask if context.heads is None else mask[:, :, None] & context.heads.swapaxes(-1, -2)


class CrossAttention(_Projections):
    """Attention over all text rows of the chunk's caption, the padding included."""

    memory_rows = None

    def __call__(
        self, x: Float[Array, "b c n d"], text: Float[Array, "b ct t d"], last_count: int = 1
    ) -> Float[Array, "b c n d"]:
        q, k, v = self.qkv(x, text)
        rows = (AttendedRows(k, v),)
        return self.merge(attend(self.layout, q, rows, replicated=True, last_count=last_count))


class LayerNorm(nn.Module):
    """Float32 layer norm without parameters, then x (1 + scale) + shift, one pair per frame."""

    eps: float
    layout: Layout = ONE_DEVICE

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b c n d"],
        shift: Float[Array, "b c f d"],
        scale: Float[Array, "b c f d"],
    ) -> Float[Array, "b c n d"]:
        norm = nn.LayerNorm(
            epsilon=self.eps,
            use_scale=False,
            use_bias=False,
            use_fast_variance=False,
            dtype=jnp.float32,
        )
        shifted = lambda y, b, s: y * (1.0 + s) + b
        return per_frame(shifted, norm(x), shift, scale, layout=self.layout)


def per_frame(
    fn, x: Float[Array, "b c n d"], *terms: Float[Array, "b c f d"], layout: Layout = ONE_DEVICE
):
    """`fn` of tokens and of terms that all tokens of a frame share."""
    b, c, n, d = x.shape
    frames = terms[0].shape[2]
    if layout.mesh is not None:  # frames and the mesh need not cut tokens at the same places
        frame = layout.constrain(jnp.arange(n) // (n // frames), TOKENS)
        of_frame = lambda t: layout.constrain(
            jnp.take(t, frame, axis=2), layout.rows(b), None, TOKENS
        )
        return layout.constrain(
            fn(x, *(of_frame(t) if frames > 1 else t for t in terms)), layout.rows(b), None, TOKENS
        )
    split = x.reshape(b, c, frames, n // frames, d)
    return fn(split, *(term[:, :, :, None] for term in terms)).reshape(b, c, n, d)


class Block(nn.Module):
    """Self-attention and FFN modulated by sigma, and un-gated cross-attention between them.

    The residual stream, norms and modulation are float32; matmuls are `config.dtype`.  The call
    signature is that of an `nn.scan` body: the carry first, this layer's context and entries then.
    """

    config: DiTConfig
    return_kv: bool = False
    keep_fn: Callable[[Array], Array] | None = None
    layout: Layout = ONE_DEVICE
    joint: bool = False  # chunks see each other; without context

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b c n d"],
        context: Context | None,
        entries: Entries | None,
        cond: Conditioning,
    ) -> tuple[Float[Array, "b c n d"], ChunkKV | None]:
        config, layout = self.config, self.layout
        modulation = self.param(
            "modulation", nn.initializers.normal(config.dim**-0.5), (6, config.dim), jnp.float32
        )
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.moveaxis(
            modulation + cond.modulation, -2, 0
        )
        attention = SelfAttention(
            config,
            layout,
            return_kv=self.return_kv,
            keep_fn=self.keep_fn,
            joint=self.joint,
            name="self_attn",
        )
        y, kv = attention(
            LayerNorm(config.eps, layout, name="norm1")(x, shift_1, scale_1), context, entries, cond
        )
        x = x + per_frame(jnp.multiply, y, gate_1, layout=layout)
        norm3 = nn.LayerNorm(
            epsilon=config.eps, use_fast_variance=False, dtype=jnp.float32, name="norm3"
        )
        cross = CrossAttention(config, layout, name="cross_attn")
        x = x + cross(norm3(x), cond.text, cond.last_text_row)
        ffn = Mlp(
            config.ffn_dim,
            config.dim,
            jax.nn.gelu,
            config.dtype,
            matmul_precision=config.matmul_precision,
            layout=layout,
            name="ffn",
        )
        y = ffn(LayerNorm(config.eps, layout, name="norm2")(x, shift_2, scale_2))
        return x + per_frame(jnp.multiply, y, gate_2, layout=layout), kv
