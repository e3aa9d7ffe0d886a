"""BuildSparseKV: which tokens of a finished chunk stay in the bank (Algorithm 2, Eq. 6, 7).

The DiT computes the importance of each key under a few probe queries; this file picks the probes
and turns the importances into one keep set per layer and batch row, shared by the heads, or as
`memory.granularity` says.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from bvjax.config import BuildConfig, MemoryConfig
from bvjax.errors import UserError

PROBES = ("recent_random", "stratified", "random", "full")
MASKS = ("chunk", "frame", "token")
NORMS = ("nnz", "position", "running_mean", "none")
COVERS = ("normalised", "accumulated")
GRANULARITIES = ("layer", "head", "model")
SOFTMAXES = ("own", "all")


@flax.struct.dataclass
class CoverReport:
    """The count that COVERCOUNT requests and the one that a slot can hold, per layer, batch row (and chunk)."""

    kept: Int[Array, "..."]  # tokens in the keep set
    requested: Int[Array, "..."]  # M of Eq. 7, before the capacity clips it
    coverage: Float[Array, "..."]  # share of the importance that the kept tokens hold


def probe_indices(
    build: BuildConfig, num_tokens: int, tokens_per_frame: int, key: Key[Array, ""]
) -> tuple[Int[Array, "P"], Int[Array, "P"]]:
    """Probe tokens of a chunk and how many of its first keys each sees (Algorithm 2, lines 6, 8).

    `build.probe` (P = n_recent + n_random; any chunk of at most that many tokens probes with all):
      recent_random  the last n_recent tokens and n_random of the others, without replacement
      stratified     spread over the latent frames, counts that differ by at most one, random within
      random         any tokens, without replacement
      full           all tokens
    `build.mask`: a probe sees the whole `chunk` (the chunk-level causal mask of Eq. 6), its own and
    earlier latent frames (`frame`), or tokens up to itself in raster order (`token`, the literal
    CAUSALMASK of Algorithm 2).  All three are a prefix of the keys, so its length says it all.

    Args:
      num_tokens: N, tokens of the chunk in raster order (t, h, w).
      tokens_per_frame: tokens of one latent frame; divides N.
      key: one draw serves all layers, heads and batch rows of the chunk.

    Raises:
      UserError: unknown `build.probe` or `build.mask`.
    """
    count = build.n_recent + build.n_random
    if build.probe not in PROBES:
        raise UserError(f"build.probe is {build.probe!r}; it can be {', '.join(PROBES)}")
    if build.probe == "full" or num_tokens <= count:
        index = jnp.arange(num_tokens)
    elif build.probe == "stratified":
        index = _stratified(count, num_tokens // tokens_per_frame, tokens_per_frame, key)
    elif build.probe == "random":
        index = jax.random.permutation(key, num_tokens)[:count]
    else:
        sampled = jax.random.permutation(key, num_tokens - build.n_recent)[: build.n_random]
        recent = jnp.arange(num_tokens - build.n_recent, num_tokens)
        index = jnp.concatenate([sampled, recent])
    index = jnp.sort(index).astype(jnp.int32)

    if build.mask == "chunk":
        visible = jnp.full(index.size, num_tokens, jnp.int32)
    elif build.mask == "frame":
        visible = (index // tokens_per_frame + 1) * tokens_per_frame
    elif build.mask == "token":
        visible = index + 1
    else:
        raise UserError(f"build.mask is {build.mask!r}; it can be {', '.join(MASKS)}")
    return index, visible


def _stratified(
    count: int, frames: int, tokens_per_frame: int, key: Key[Array, ""]
) -> Int[Array, "P"]:
    share = np.diff(np.arange(frames + 1) * count // frames)  # sums to count, each +-1
    frame = np.repeat(np.arange(frames), share)
    rank = np.concatenate([np.arange(n) for n in share])
    tokens = jnp.broadcast_to(jnp.arange(tokens_per_frame), (frames, tokens_per_frame))
    shuffled = jax.random.permutation(key, tokens, axis=1, independent=True)
    return frame * tokens_per_frame + shuffled[frame, rank]


def normalise(
    importance: Float[Array, "*rows N"], visible: Int[Array, "P"], norm: str
) -> Float[Array, "*rows N"]:
    """CUMMEAN of Algorithm 2, line 10: importance m of each key, normalised from s, the sum of its
    attention weights over the probes (`importance`).

    `nnz`: s_j / number of probes that see key j (ZipVL, arXiv 2410.08584; right under any mask,
    and under the chunk mask a constant).  `position`: s_j / (n - j), j counted from 0, the number
    of causal queries that could have seen key j.  `running_mean`: the mean of s_0 .. s_j.
    `none`: s_j.

    Args:
      visible: how many of the first keys each probe sees, as `probe_indices` returns it.

    Raises:
      UserError: unknown `norm`.
    """
    num_tokens = importance.shape[-1]
    if norm == "nnz":
        blind = jnp.searchsorted(jnp.sort(visible), jnp.arange(num_tokens), side="right")
        return importance / jnp.maximum(visible.size - blind, 1)
    if norm == "position":
        return importance / (num_tokens - jnp.arange(num_tokens))
    if norm == "running_mean":
        return jnp.cumsum(importance, axis=-1) / (1 + jnp.arange(num_tokens))
    if norm == "none":
        return importance
    raise UserError(f"memory.norm is {norm!r}; it can be {', '.join(NORMS)}")


def keep_mask(
    importance: Float[Array, "*rows N"],
    visible: Int[Array, "P"],
    memory: MemoryConfig,
    capacity: int,
) -> tuple[Bool[Array, "*rows N"], CoverReport]:
    """The keep set of every row (Algorithm 2, lines 10-12; Eq. 7), as a mask over the tokens.

    COVERCOUNT is the smallest M >= 1 such that the M largest importances hold a share
    `memory.tau` of the total; the M largest m are kept, of equal ones the earlier token first.
    `memory.cover` says what is summed: `normalised` the importances m, `accumulated` the column
    sums before CUMMEAN (ZipVL; as m still ranks, the kept tokens may then hold less than tau).
    tau = 1 keeps every token, whatever float sums say.  When M exceeds `capacity` the `capacity`
    largest m are kept.  No gradient flows into `scores`.

    Raises:
      UserError: unknown `memory.norm` or `memory.cover`.
    """
    if memory.cover not in COVERS:
        raise UserError(f"memory.cover is {memory.cover!r}; it can be {', '.join(COVERS)}")
    importance = jax.lax.stop_gradient(importance.astype(jnp.float32))
    num_tokens = importance.shape[-1]
    normalised = normalise(importance, visible, memory.norm)
    mass = normalised if memory.cover == "normalised" else importance
    rising, rank = _ranked(normalised)
    if memory.tau >= 1:
        requested = jnp.full(importance.shape[:-1], num_tokens, jnp.int32)
    else:
        falling = jnp.flip(jnp.sort(mass, axis=-1), axis=-1) if mass is importance else -rising
        covered = jnp.cumsum(falling, axis=-1)
        short = covered < memory.tau * covered[..., -1:]
        requested = jnp.minimum(1 + short.sum(-1, dtype=jnp.int32), num_tokens)
    kept = jnp.minimum(requested, capacity)
    keep = rank < kept[..., None]
    return keep, CoverReport(kept=kept, requested=requested, coverage=_coverage(mass, keep))


def _ranked(values: Float[Array, "... N"]) -> tuple[Float[Array, "... N"], Int[Array, "... N"]]:
    """The negated values in rising order, and the rank of each: 0 of the largest, of equal ones the earlier first."""
    # One sort says all: XLA:TPU compiles each for a quarter of a minute at 37,440 tokens.
    tokens = jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    rising, order = jax.lax.sort((-values, tokens), num_keys=1, is_stable=True)
    rank = jnp.put_along_axis(jnp.zeros_like(order), order, tokens, axis=-1, inplace=False)
    return rising, rank


def _coverage(mass: Float[Array, "... N"], keep: Bool[Array, "... N"]) -> Float[Array, "..."]:
    """The share of the mass that is kept; 1 where there is none."""
    total, kept_mass = mass.sum(-1), jnp.where(keep, mass, 0).sum(-1)
    return jnp.where(total > 0, kept_mass / jnp.where(total > 0, total, 1), 1.0)


def keep_of_layer(
    importance: Float[Array, "... N"],
    visible: Int[Array, "P"],
    memory: MemoryConfig,
    capacity: int,
) -> tuple[Bool[Array, "... N"], CoverReport]:
    """`keep_mask`, or with `memory.granularity` "head" a keep set for each head.

    A head's set covers tau of its own importances, [..., head, N].  A slot holds the tokens that any head keeps; where
    these are more than `capacity`, those with the largest importance over all heads stay.  The report is of them.
    """
    if memory.granularity != "head":
        return keep_mask(importance, visible, memory, capacity)
    num_tokens = importance.shape[-1]
    keep, _ = keep_mask(importance, visible, memory, num_tokens)
    summed = jax.lax.stop_gradient(importance.astype(jnp.float32).sum(-2))
    m = normalise(summed, visible, memory.norm)
    kept = keep.any(-2)
    _, rank = _ranked(jnp.where(kept, m, -jnp.inf))
    requested = kept.sum(-1, dtype=jnp.int32)
    kept &= rank < capacity
    mass = m if memory.cover == "normalised" else summed
    report = CoverReport(
        kept=jnp.minimum(requested, capacity),
        requested=requested,
        coverage=_coverage(mass, kept),
    )
    return keep & kept[..., None, :], report


def keep_of_layers(
    importance: Float[Array, "Y ... N"],
    visible: Int[Array, "P"],
    memory: MemoryConfig,
    capacity: int,
) -> tuple[Bool[Array, "Y ... N"], CoverReport]:
    """`keep_of_layer` of each, or with `memory.granularity` "model" one keep set, by the sum over layers."""
    if memory.granularity != "model":
        return keep_of_layer(importance, visible, memory, capacity)
    one = keep_mask(importance.sum(0, keepdims=True), visible, memory, capacity)
    layers = len(importance)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (layers, *x.shape[1:])), one)
