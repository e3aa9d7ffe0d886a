"""The past that a training target sees: which chunks, with or without the anchor, how clean.

Generation retrieves by one rule; training draws, per target, one of all rules (`memory.rules`), each choosing the
same number of entries, so that one model can be measured under all of them and learns to use what it is given
rather than to expect it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from bvjax.config import RetrievalConfig
from bvjax.errors import UserError
from bvjax.losses.levels import LevelsConfig
from bvjax.memory import rules
from bvjax.memory.retrieval import select
from bvjax.memory.rules import RULES
from bvjax.overrides import INLINE
from bvjax.random import AnyKey, bernoulli, categorical, normal, purpose_key, uniform


def shares() -> dict[str, float]:
    """The chances of the rules where nobody says otherwise."""
    return {kind: rule.share for kind, rule in RULES.items()}


@dataclasses.dataclass(frozen=True)
class HistoryConfig:
    """The history that targets see.

    `chances` are the weights of the rules (they are normalised): of those that are named, or each its share.  In a
    config each rule is a key of the section: `history.semantic=0.5`.
    `none` drops the whole history with its anchor.
    """

    chances: Mapping[str, float] = dataclasses.field(default_factory=shares, metadata=INLINE)
    anchor_drop: float = 0.15  # chance that a target with history does not see the anchor
    caption_drop: float = 0.1  # chance that a target's caption is the null caption
    entry_drop: float = (
        0.0  # chance that a chunk of the history is not shown, as if it had not been chosen
    )
    token_drop: float = (
        0.0  # chance that a kept token of a chunk is not shown (Algorithm 1, p_drop)
    )
    noise_chance: float = 0.5  # chance that a history chunk is noised (against exposure bias)
    noise_max: float = 0.1  # its sigma is uniform in [0, noise_max], and is told to the model
    # The last latent before a target (`dit.previous_latent`) gets noise of a share of each channel's spread, uniform in
    # [0, previous_noise] and not told: what a model makes has errors too, and a model that copies them keeps them.
    previous_noise: float = 0.0

    def __post_init__(self):
        for kind in self.chances:
            rules.rule_of(kind)
        weights = list(self.weights.values())
        if min(weights) < 0 or sum(weights) <= 0:
            raise UserError(f"history chances are {weights}; they must be >= 0 and not all zero")
        shares = (
            "anchor_drop",
            "caption_drop",
            "entry_drop",
            "token_drop",
            "noise_chance",
            "noise_max",
            "previous_noise",
        )
        for name in shares:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"history.{name} is {getattr(self, name)}; it must lie in [0, 1]")

    @property
    def weights(self) -> dict[str, float]:
        """The weights of all rules, in the order of the table."""
        return {kind: self.chances.get(kind, 0.0) for kind in RULES}

    @property
    def never(self) -> bool:
        """No target is ever shown any history: the clean chunks need not be encoded at all."""
        return not any(self.weights[kind] for kind, rule in RULES.items() if rule.looks_back)


@struct.dataclass
class History:
    """The entries each of the `m` targets attends: [top-l | recent], and the anchor or not."""

    kind: Int[Array, "b m"]  # place of the rule in the table
    index: Int[Array, "b m e"]  # along the chunk axis of the clip, 0 = chunk 1
    valid: Bool[Array, "b m e"]
    scores: Float[Array, "b m e"]  # Eq. 8, whatever the rule
    # Read with all rows: the recent ones, with `retrieval.dense_recent`.
    dense: Bool[Array, "b m e"]
    anchor: Bool[Array, "b m"]

    @property
    def similarity(self) -> Float[Array, "b m e"]:
        """`scores` (Eq. 8), 0 where there is no entry: what `dit.similarity_keys` is told."""
        return jnp.where(self.valid, self.scores, 0.0)

    @property
    def alone(self) -> Bool[Array, "b m"]:
        """Targets whose rule does not look back."""
        return _alone(self.kind)


def draw_kinds(key: AnyKey, history: HistoryConfig, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """The place of a rule in the table per target."""
    weights = jnp.array(list(history.weights.values()))
    return categorical(key, jnp.log(weights), shape)


def draw_history(
    key: AnyKey,
    target: Int[Array | np.ndarray, "b m"],
    embedding: Float[Array | np.ndarray, "b c d"],
    relevance: Float[Array | np.ndarray, "b c c"] | None,
    config: RetrievalConfig,
    history: HistoryConfig,
    kind: Int[Array | np.ndarray, "b m"] | None = None,
    latents: Float[Array | np.ndarray, "b c l h w z"] | None = None,
    shot: Float[Array | np.ndarray, "b c"] | None = None,
) -> History:
    """The context of each target chunk (Eq. 8, 9), causal by construction: only chunks before it.

    Args:
        key: randomness of this step.
        target: chunk ids, 1-based.
        embedding: mean caption states of all chunks.
        relevance: ground-truth score of source chunk j for target chunk i (the oracle arm); None where nobody
            knows: then `history` must give no chance to the rules that need it, and `kind` no such rule.
        config: how many recent and retrieved entries, and whether the recent are read whole; `center` for
            the semantic scores.
        history: the chances.
        kind: places of rules in the table, drawn when not given (evaluation gives them).
        latents: of all chunks, clean, for rules that need them.
        shot: id of the first chunk of the shot that each chunk is of: those before it are not recent for it, but
            among those that the rule scores, as in generation (`retrieval.select`). None: all are of one shot.
    """
    if kind is None:
        kind = draw_kinds(purpose_key(key, "kind"), history, target.shape)
    entries = _candidates(key, target, embedding, relevance, latents)
    scores = jnp.select(
        [kind[..., None] == i for i in range(len(RULES))],
        [
            jnp.zeros(entries.valid.shape)
            if relevance is None and "oracle" in rule.needs
            else rules.score(name, entries, config)
            for name, rule in RULES.items()
        ],
    )
    alone = _alone(kind)
    usable = entries.valid & ~alone[..., None]
    ids = entries.chunk_id[0, 0]

    def flat(x):
        return x.reshape(-1, *x.shape[2:])

    first = jnp.zeros_like(target)
    if shot is not None:
        first = jnp.take_along_axis(jnp.asarray(shot), target - 1, axis=1).astype(target.dtype)
    selected = jax.vmap(
        lambda s, v, t, f: select(
            s[None],
            ids[None],
            v[None],
            t,
            config.num_recent,
            config.num_retrieved,
            False,
            f,
            config.offset,
        )
    )(flat(scores), flat(usable), flat(target), flat(first))
    shape = (*target.shape, -1)
    index, valid, recent = (
        x.reshape(shape) for x in (selected.index, selected.valid, selected.recent)
    )
    if history.entry_drop:
        drawn = uniform(purpose_key(key, "entry drop"), valid.shape)
        valid = valid & (drawn >= history.entry_drop)
        recent = recent & valid
    keep_anchor = uniform(purpose_key(key, "anchor"), target.shape) >= history.anchor_drop
    return History(
        kind=kind,
        index=index,
        valid=valid,
        scores=jnp.take_along_axis(rules.semantic(entries, config), index, axis=-1),
        dense=recent & config.dense_recent,
        anchor=keep_anchor & ~alone,
    )


def _candidates(key, target, embedding, relevance, latents) -> rules.Candidates:
    """All chunks of the clips, for each target those before it."""
    ids = jnp.arange(1, embedding.shape[1] + 1)
    row = jnp.take_along_axis
    return rules.Candidates(
        target=target,
        chunk_id=ids[None, None],
        valid=ids < target[..., None],
        target_caption=row(embedding, (target - 1)[..., None], axis=1),
        captions=embedding[:, None],
        key=purpose_key(key, "random"),
        oracle=None if relevance is None else row(relevance, (target - 1)[..., None], axis=1),
        latents=None if latents is None else latents[:, None],
    )


def _alone(kind: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Returns whether a rule does not look back."""
    return ~jnp.array([rule.looks_back for rule in RULES.values()])[kind]


def noise_previous(
    key: AnyKey, latents: Float[Array, "b c h w z"], std: tuple[float, ...], most: float
) -> Float[Array, "b c h w z"]:
    """Latents with noise in them, and as large as before: sqrt(1 - a^2) x + a std eps, a uniform in [0, most] for each.

    Args:
        std: of the latents by channel; () = 1 each.
    """
    if not most:
        return latents
    share = most * uniform(purpose_key(key, "share"), (*latents.shape[:2], 1, 1, 1))
    noise = jnp.array(std or 1.0, jnp.float32) * normal(purpose_key(key, "noise"), latents.shape)
    return jnp.sqrt(1.0 - share**2) * latents + share * noise


def drop_tokens(
    key: AnyKey, keep: Bool[Array, "y b c *n"], history: HistoryConfig
) -> Bool[Array, "y b c *n"]:
    """Kept rows without some tokens, each gone from all layers with chance `token_drop` (Algorithm 1, p_drop)."""
    if not history.token_drop:
        return keep
    drawn = uniform(purpose_key(key, "token drop"), (*keep.shape[1:3], keep.shape[-1]))
    shown = drawn >= history.token_drop
    return keep & (shown if keep.ndim == 4 else shown[:, :, None])  # the same tokens in all heads


def noise_history(
    key: AnyKey,
    latents: Float[Array, "b c l h w z"],
    history: HistoryConfig,
    levels: LevelsConfig | None = None,
) -> tuple[Float[Array, "b c l h w z"], Float[Array, "b c"]]:
    """Clean history with sigma ~ U(0, noise_max) mixed into some chunks, and the sigma labels.

    With the role `context` of `levels` chunks have the level of the schedule instead, but in a share `mix` of clips.
    """
    shape = latents.shape[:2]
    sigma = uniform(purpose_key(key, "sigma"), shape, history.noise_max)
    noised = uniform(purpose_key(key, "noised"), shape) < history.noise_chance
    sigma = jnp.where(noised, sigma, 0.0)
    scheduled = None if levels is None else levels.of_context(shape[1])
    if levels is not None and scheduled is not None:
        ordinary = bernoulli(purpose_key(key, "level mix"), levels.mix, (shape[0], 1))
        sigma = jnp.where(ordinary, sigma, scheduled)
    level = sigma[:, :, None, None, None, None]
    noise = normal(purpose_key(key, "eps"), latents.shape)
    return (1.0 - level) * latents + level * noise, sigma


def revisiting(
    relevance: Float[Array, "b c c"], recent: int, margin: float = 0.0
) -> Bool[Array, "b c"]:
    """Chunks that have more to do with a chunk before the last `recent` ones than with any of these, by `margin`."""
    ids = jnp.arange(relevance.shape[-1])
    gap = ids[:, None] - ids
    old = jnp.where(gap > recent, relevance, 0.0).max(axis=-1)
    late = jnp.where((gap > 0) & (gap <= recent), relevance, 0.0).max(axis=-1)
    return old > late + margin
