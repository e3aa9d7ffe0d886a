"""The retrieval rules: which past chunks a chunk sees beside the recent ones (`retrieval.kind`).

A rule is a function that scores entries and a row of `RULES`.  Generation, the histories of
training, checks and the arms of evaluations all read that one table, so a row is all that another
rule takes: it can be generated with at once, training draws it with its `share`, and evaluations
measure it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bvjax.config import RetrievalConfig
from bvjax.errors import UserError
from bvjax.memory.similarity import cosine
from bvjax.random import AnyKey, uniform


@flax.struct.dataclass
class Candidates:
    """The inputs that a rule may score by: S entries for each target chunk.

    `*rows` are (video,) in generation, where the entries are the slots of a bank, and
    (video, target) in training, where they are all chunks of a clip; what is the same for all
    targets of a video has an axis of length 1 there.  A score must not depend on an entry that is
    not `valid`: the slot may be empty, the chunk later than the target.
    """

    target: Int[Array, "*rows"]  # id of the chunk that looks back
    chunk_id: Int[Array, "*#rows S"]
    valid: Bool[Array, "*rows S"]  # earlier chunks; the anchor is none
    target_caption: Float[Array, "*rows Dt"] | None = None  # mean text states
    captions: Float[Array, "*#rows S Dt"] | None = None
    key: AnyKey | None = None
    oracle: Float[Array, "*rows S"] | None = None  # relevance by ground truth; -inf: never this
    latents: Float[Array, "*#rows S l h w z"] | None = None  # clean ones


# What a rule can need: the fields of `Candidates`, and how they are called where they are missing.
NEEDS = {
    "caption": (("target_caption", "captions"), "the embeddings of captions"),
    "key": (("key",), "a key"),
    "oracle": (("oracle",), "oracle scores"),
    "latents": (("latents",), "the latents of chunks"),
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """A row of `RULES`."""

    # (candidates, config) -> scores [*rows S], or of a shape that broadcasts to it: the top l are
    # seen, never one that is -inf.  None: nothing is seen but the anchor, recent chunks included.
    score: Callable[[Candidates, RetrievalConfig], Float[Array, "..."]] | None
    # Weight with which training draws the rule where its configuration does not say.
    share: float
    needs: tuple[str, ...] = ()  # of NEEDS; the rule is given these and nothing else of them

    @property
    def looks_back(self) -> bool:
        """Returns whether any chunk but the anchor is seen."""
        return self.score is not None


def semantic_scores(
    target: Float[Array, "*rows Dt"],
    entries: Float[Array, "*#rows slot Dt"],
    valid: Bool[Array, "*#rows slot"],
    center: bool = False,
) -> Float[Array, "*rows slot"]:
    """cos(E_c, E_i) of caption embeddings (Eq. 8).

    `center` subtracts the mean of the valid entries first: mean-pooled states of a language model
    share a large common direction, which the raw cosine mostly measures.
    """
    target = target[..., None, :].astype(jnp.float32)
    entries = entries.astype(jnp.float32)
    if center:
        counted = valid[..., None]
        count = jnp.maximum(counted.sum(-2, keepdims=True), 1)
        mean = jnp.where(counted, entries, 0).sum(-2, keepdims=True) / count
        target, entries = target - mean, entries - mean
    return cosine(target, entries)


def semantic(candidates: Candidates, config: RetrievalConfig) -> Float[Array, "*rows S"]:
    """`semantic_scores` of the candidates."""
    assert candidates.target_caption is not None and candidates.captions is not None
    return semantic_scores(
        candidates.target_caption, candidates.captions, candidates.valid, config.center
    )


def rolling(candidates: Candidates, config: RetrievalConfig) -> Float[Array, "*#rows S"]:
    """The later the better: the top l are the chunks before the recent ones."""
    return candidates.chunk_id.astype(jnp.float32)


def oracle(candidates: Candidates, config: RetrievalConfig) -> Float[Array, "*rows S"]:
    """Relevance by ground truth."""
    assert candidates.oracle is not None
    return candidates.oracle


def random(candidates: Candidates, config: RetrievalConfig) -> Float[Array, "*rows S"]:
    """Uniform scores: the top l are any l chunks."""
    assert candidates.key is not None
    return uniform(candidates.key, candidates.valid.shape)


# The order is that of the draws of training and of the tables of evaluations: new rows come last.
RULES: dict[str, Rule] = {
    "semantic": Rule(semantic, share=0.5, needs=("caption",)),
    "rolling": Rule(rolling, share=0.15),
    "oracle": Rule(oracle, share=0.15, needs=("oracle",)),
    "random": Rule(random, share=0.1, needs=("key",)),
    "none": Rule(None, share=0.1),
}


def rule_of(kind: str) -> Rule:
    """The row of a `retrieval.kind`; raises `UserError` naming the legal ones."""
    if kind not in RULES:
        raise UserError(f"retrieval.kind is {kind!r}; it can be {', '.join(RULES)}")
    return RULES[kind]


def number_of(kind: str) -> int:
    """The place of a rule in the table; raises `UserError` as `rule_of`."""
    rule_of(kind)
    return list(RULES).index(kind)


def check_generation(kind: str) -> None:
    """Raises `UserError` for a rule that chooses by what a video does not have before it is made."""
    if "oracle" in rule_of(kind).needs:
        raise UserError(f"retrieval.kind {kind!r} needs scores that only an evaluation has")


def score(kind: str, candidates: Candidates, config: RetrievalConfig) -> Float[Array, "*rows S"]:
    """Scores of all candidates by a rule; 0 by one that does not look back.

    Raises:
      UserError: unknown kind.  ValueError: what the rule needs is missing.
    """
    rule = rule_of(kind)
    if rule.score is None:
        return jnp.zeros(candidates.valid.shape, jnp.float32)
    hidden: dict[str, Any] = {}
    for need, (fields, words) in NEEDS.items():
        if need not in rule.needs:
            hidden |= dict.fromkeys(fields)
        elif any(getattr(candidates, field) is None for field in fields):
            raise ValueError(f"retrieval.kind={kind!r} needs {words}")
    scores = jnp.asarray(rule.score(dataclasses.replace(candidates, **hidden), config), jnp.float32)
    return jnp.broadcast_to(scores, candidates.valid.shape)
