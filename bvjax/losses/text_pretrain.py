"""Training a small text encoder from nothing, before it is frozen.

Full-size models bring umT5-xxl.  A small one needs states that tell the DiT what a caption says,
and a mean embedding whose cosine finds the past captions about the same subjects, because that
cosine is what retrieval ranks by (Eq. 8).  Three terms, one each for words, content and cosine:

1. masked tokens: predict hidden or replaced tokens through the tied embedding (BERT's objective);
2. labels: a linear head reads every mention of the caption from the mean embedding;
3. similarity: cos(e_i, e_j) is regressed to the overlap of the mentions of i and j.

The heads are trained beside the encoder and dropped at export (`params["encoder"]` is kept).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from bvjax.config import TextConfig
from bvjax.nets import text
from bvjax.random import AnyKey, purpose_key, randint, uniform


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextLossConfig:
    """Weights of the objective."""

    corrupt: float = 0.2  # share of the tokens to predict
    random_share: float = 0.15  # share of those that become a random token, not `mask_id`
    name_weight: float = 0.65  # share of the similarity target that the names make
    toponym_weight: float = 0.35  # ... that the toponym makes
    mlm_weight: float = 1.0
    label_weight: float = 1.0
    similarity_weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class TextPretrainConfig(TextLossConfig):
    """Sizes and weights of the objective."""

    text: TextConfig
    num_labels: int
    mask_id: int  # token that hides another
    first_piece: int  # ids from here on are text; random replacements are drawn from them


def init_params(config: TextPretrainConfig, key: Array) -> dict[str, Any]:
    """{"encoder": parameters of the encoder, "heads": those of the two heads} (float32)."""
    encoder_key, head_key = jax.random.split(key)
    kernel = (
        jax.random.normal(head_key, (config.text.dim, config.num_labels)) * config.text.dim**-0.5
    )
    return {
        "encoder": text.init_params(config.text, encoder_key),
        "heads": {
            "label_kernel": kernel,
            # A caption has few of the labels.  From 0 this bias would pull all embeddings together.
            "label_bias": jnp.full((config.num_labels,), -3.0, jnp.float32),
            "token_bias": jnp.zeros((config.text.vocab_size,)),
        },
    }


def corrupt(
    ids: Int[Array | np.ndarray, "n t"],
    mask: Bool[Array | np.ndarray, "n t"],
    config: TextPretrainConfig,
    key: AnyKey,
) -> tuple[Int[Array, "n t"], Bool[Array, "n t"]]:
    """Hides or replaces a share of the tokens; also says which ones must be predicted.

    Pads and other special tokens (ids below `first_piece`) stay.
    """
    chosen = (uniform(purpose_key(key, "chosen"), ids.shape) < config.corrupt) & mask
    chosen &= ids >= config.first_piece
    replaced = uniform(purpose_key(key, "kind"), ids.shape) < config.random_share
    first, end = config.first_piece, config.text.vocab_size
    tokens = randint(purpose_key(key, "token"), ids.shape, first, end)
    return jnp.where(chosen, jnp.where(replaced, tokens, config.mask_id), ids), chosen


def target_similarity(
    names: Float[Array | np.ndarray, "n names"],
    toponyms: Float[Array | np.ndarray, "n toponyms"],
    config: TextPretrainConfig,
) -> Float[Array, "n n"]:
    """Returns the target cosine of two captions, from their multi-hot mentions.

    It is the cosine of the vectors [sqrt(name_weight) unit(names), sqrt(toponym_weight)
    unit(toponyms)], so an encoder can reach it exactly.  For captions with both kinds that is
    name_weight * cos(names) + toponym_weight * cos(toponyms), with both weights divided by their
    sum.  A caption that mentions neither is like no other.
    """
    parts = ((config.name_weight, names), (config.toponym_weight, toponyms))
    return cosine(jnp.concatenate([weight**0.5 * unit(x) for weight, x in parts], axis=1))


def unit(x: Float[Array | np.ndarray, "n d"]) -> Float[Array, "n d"]:
    """Rows of length 1; a row of zeros stays."""
    square = jnp.sum(x * x, axis=1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def cosine(x: Float[Array, "n d"]) -> Float[Array, "n n"]:
    """Cosine of every pair of rows (Eq. 8); 0 where a row is zero."""
    x = unit(x)
    return x @ x.T


def hit_rates(
    similarity: Float[Array, "n n"],
    story: Int[Array, "n"],
    mentions: Float[Array, "n k"],
    *,
    recent: int = 2,
    top: int = 2,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(hit rate, hit rate of returns) of top-`top` retrieval inside each story.

    The candidates of a caption are the earlier ones of its story but the last `recent`.
    Hit: a caption that shares a mention (a name, say) with a candidate; one of the `top` most
    similar candidates shares a mention with it.  Return: a caption with a mention that some
    candidate has and none of the last `recent` captions; each such mention is in one of the `top`.  A rate is
    0 when there are no cases.
    """
    row = jnp.arange(len(story))
    age = jnp.where(story[:, None] == story[None, :], row[:, None] - row[None, :], 0)
    past = age > recent
    _, best = jax.lax.top_k(jnp.where(past, similarity, -jnp.inf), top)
    chosen = jnp.any(best[:, :, None] == row, axis=1) & past

    def mentioned_in(captions: Bool[Array, "n n"]) -> Bool[Array, "n k"]:
        return captions.astype(mentions.dtype) @ mentions > 0

    shared = (mentions > 0) & mentioned_in(past)
    returned = shared & ~mentioned_in((age > 0) & ~past)
    covered = mentioned_in(chosen)
    hit = jnp.any(shared & covered, axis=1)
    complete = jnp.all(covered | ~returned, axis=1)
    return _mean(hit, jnp.any(shared, axis=1)), _mean(complete, jnp.any(returned, axis=1))


def text_pretrain_loss(
    params: dict[str, Any],
    config: TextPretrainConfig,
    batch: Mapping[str, Array | np.ndarray],
    key: AnyKey,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The weighted sum of the three terms, and metrics.

    Args:
        batch: whole stories of c captions in order: ids int [s, c, t], mask bool [s, c, t], and
            multi-hot float arrays labels [s, c, num_labels], name_labels [s, c, names],
            toponym_labels [s, c, toponyms].

    The similarity term is the mean squared error of the cosine, averaged over the pairs inside
    stories and over the pairs across stories, half and half: the first are the ones that
    retrieval ranks and far fewer.

    Metrics: the three terms, `mlm_accuracy`, `label_f1`, and the rates of `hit_rates` by name and
    by toponym: `name_hit_at_2`, `name_return_hit_at_2`, `toponym_hit_at_2`,
    `toponym_return_hit_at_2`.
    """
    stories, captions = batch["ids"].shape[:2]
    flat = {name: x.reshape(-1, x.shape[-1]) for name, x in batch.items()}
    ids, mask, names, toponyms = (
        flat[name] for name in ("ids", "mask", "name_labels", "toponym_labels")
    )
    story = jnp.repeat(jnp.arange(stories), captions)

    encoder = text.UMT5Encoder(config.text)
    corrupted, chosen = corrupt(ids, mask, config, key)
    # The clean half feeds the other two terms: a hidden name cannot be retrieved by.
    both = (jnp.concatenate([ids, corrupted]), jnp.concatenate([mask, mask]))
    states, hidden = jnp.split(encoder.apply({"params": params["encoder"]}, *both), 2)
    embedding = text.mean_embedding(states, mask)

    heads = params["heads"]
    table = params["encoder"]["token_embedding"]["embedding"]
    token_logits = hidden @ table.T * config.text.dim**-0.5 + heads["token_bias"]
    token_loss = optax.softmax_cross_entropy_with_integer_labels(token_logits, ids)
    mlm = _mean(token_loss, chosen)

    label_logits = embedding @ heads["label_kernel"] + heads["label_bias"]
    label_loss = optax.sigmoid_binary_cross_entropy(label_logits, flat["labels"])
    # Summed over labels: most are absent and easy, a mean would drown the few present ones.
    label = jnp.mean(jnp.sum(label_loss, axis=1))

    cosines = cosine(embedding)
    error = jnp.square(cosines - target_similarity(names, toponyms, config))
    same = story[:, None] == story[None, :]
    inside = same & ~jnp.eye(len(story), dtype=bool)
    similarity = 0.5 * (_mean(error, inside) + _mean(error, ~same))

    loss = (
        config.mlm_weight * mlm
        + config.label_weight * label
        + config.similarity_weight * similarity
    )
    metrics = {
        "mlm": mlm,
        "label": label,
        "similarity": similarity,
        "mlm_accuracy": _mean(jnp.argmax(token_logits, axis=-1) == ids, chosen),
        "label_f1": _f1(label_logits > 0, flat["labels"] > 0),
    }
    for name, mentions in (("name", names), ("toponym", toponyms)):
        hit, return_hit = hit_rates(cosines, story, mentions)
        metrics |= {f"{name}_hit_at_2": hit, f"{name}_return_hit_at_2": return_hit}
    return loss, metrics


def _mean(x: Array, where: Bool[Array, "..."]) -> Float[Array, ""]:
    """Mean of the entries of `x` where `where`; 0 when there are none."""
    return jnp.sum(jnp.where(where, x, 0)) / jnp.maximum(jnp.sum(where), 1)


def _f1(predicted: Bool[Array, "n k"], present: Bool[Array, "n k"]) -> Float[Array, ""]:
    """2 TP / (predicted + present)."""
    return 2 * jnp.sum(predicted & present) / jnp.maximum(jnp.sum(predicted) + jnp.sum(present), 1)
