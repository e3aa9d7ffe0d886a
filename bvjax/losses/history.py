"""What a training target is shown of its past: which chunks, with or without the anchor, how clean.

Generation retrieves by caption similarity; training draws, per target, one of five ways of choosing the same
number of entries, so that one model can be measured under all of them and learns to use what it is given
rather than to expect it.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from bvjax.config import RetrievalConfig
from bvjax.errors import UserError
from bvjax.memory import retrieval
from bvjax.random import normal, purpose_key

KINDS = ("semantic", "rolling", "oracle", "random", "none")


@dataclasses.dataclass(frozen=True)
class HistoryConfig:
    """Chances are weights (they are normalised); `none` drops the whole history with its anchor."""

    semantic: float = 0.5
    rolling: float = 0.15
    oracle: float = 0.15
    random: float = 0.1
    none: float = 0.1
    anchor_drop: float = 0.15  # chance that a target with history does not see the anchor
    caption_drop: float = 0.1  # chance that a target's caption is the null caption
    noise_chance: float = 0.5  # chance that a history chunk is noised (against exposure bias)
    noise_max: float = 0.1  # its sigma is uniform in [0, noise_max], and is told to the model

    def __post_init__(self):
        weights = [getattr(self, kind) for kind in KINDS]
        if min(weights) < 0 or sum(weights) <= 0:
            raise UserError(f"history chances are {weights}; they must be >= 0 and not all zero")
        for name in ("anchor_drop", "caption_drop", "noise_chance", "noise_max"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"history.{name} is {getattr(self, name)}; it must lie in [0, 1]")

    @property
    def never(self) -> bool:
        """No target is ever shown any history: the clean chunks need not be encoded at all."""
        return all(getattr(self, kind) == 0 for kind in KINDS if kind != "none")


@struct.dataclass
class History:
    """The entries each of the `m` targets attends: [top-l | recent], and the anchor or not."""

    kind: Int[Array, "b m"]  # index into KINDS
    index: Int[Array, "b m e"]  # along the chunk axis of the clip, 0 = chunk 1
    valid: Bool[Array, "b m e"]
    scores: Float[Array, "b m e"]
    whole: Bool[
        Array, "b m e"
    ]  # read with all rows: the recent ones, with `retrieval.dense_recent`
    anchor: Bool[Array, "b m"]

    @property
    def similarity(self) -> Float[Array, "b m e"]:
        """`scores` (Eq. 8), 0 where there is no entry: what `dit.similarity_keys` is told."""
        return jnp.where(self.valid, self.scores, 0.0)


def draw_kinds(key: Array, history: HistoryConfig, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """One of KINDS per target."""
    weights = jnp.array([getattr(history, kind) for kind in KINDS])
    return jax.random.categorical(key, jnp.log(weights), shape=shape)


def draw_history(
    key: Array,
    target: Int[Array, "b m"],
    embedding: Float[Array, "b c d"],
    relevance: Float[Array, "b c c"],
    config: RetrievalConfig,
    history: HistoryConfig,
    kind: Int[Array, "b m"] | None = None,
) -> History:
    """The context of each target chunk (Eq. 8, 9), causal by construction: only chunks before it.

    Args:
        key: randomness of this step.
        target: chunk ids, 1-based.
        embedding: mean caption states of all chunks.
        relevance: ground-truth score of source chunk j for target chunk i (the oracle arm).
        config: how many recent and retrieved entries, and whether the recent are read whole; `center` for
            the semantic scores.
        history: the chances.
        kind: index into KINDS, drawn when not given (evaluation gives it).
    """
    batch, chunks, _ = embedding.shape
    if kind is None:
        kind = draw_kinds(purpose_key(key, "kind"), history, target.shape)
    ids = jnp.arange(1, chunks + 1)
    before = ids < target[..., None]  # [b, m, c]
    row = jnp.take_along_axis
    wanted = row(embedding, (target - 1)[..., None], axis=1)
    semantic = retrieval.semantic_scores(wanted, embedding[:, None], before, config.center)
    oracle = row(relevance, (target - 1)[..., None], axis=1)
    rolling = jnp.broadcast_to(retrieval.rolling_scores(ids), before.shape)
    chance = retrieval.random_scores(purpose_key(key, "random"), before.shape)
    scores = jnp.select(
        [kind[..., None] == KINDS.index(k) for k in ("semantic", "rolling", "oracle")],
        [semantic, rolling, oracle],
        chance,
    )
    usable = before & (kind != KINDS.index("none"))[..., None]

    def flat(x):
        return x.reshape(-1, *x.shape[2:])

    selected = jax.vmap(
        lambda s, v, t: retrieval.select(
            s[None], ids[None], v[None], t, config.recent, config.l, anchor=False
        )
    )(flat(scores), flat(usable), flat(target))
    shape = (*target.shape, -1)
    index, valid, recent = (
        x.reshape(shape) for x in (selected.index, selected.valid, selected.recent)
    )
    keep_anchor = (
        jax.random.uniform(purpose_key(key, "anchor"), target.shape) >= history.anchor_drop
    )
    return History(
        kind=kind,
        index=index,
        valid=valid,
        scores=jnp.take_along_axis(semantic, index, axis=-1),
        whole=recent & config.dense_recent,
        anchor=keep_anchor & (kind != KINDS.index("none")),
    )


def noise_history(
    key: Array, latents: Float[Array, "b c l h w z"], history: HistoryConfig
) -> tuple[Float[Array, "b c l h w z"], Float[Array, "b c"]]:
    """Clean history with sigma ~ U(0, noise_max) mixed into some chunks, and the sigma labels."""
    shape = latents.shape[:2]
    sigma = jax.random.uniform(purpose_key(key, "sigma"), shape, maxval=history.noise_max)
    noised = jax.random.uniform(purpose_key(key, "noised"), shape) < history.noise_chance
    sigma = jnp.where(noised, sigma, 0.0)
    level = sigma[:, :, None, None, None, None]
    noise = normal(purpose_key(key, "eps"), latents.shape)
    return (1.0 - level) * latents + level * noise, sigma
