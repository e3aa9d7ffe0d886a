"""Training of the judge: worn pictures, three cross-entropies, AdamW."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from bvjax.nets.vae import to_float
from bvjax.random import normal
from experiments.evaluation.judge import HEADS, NETS, init_params
from experiments.evaluation.judge_data import Pictures
from experiments.evaluation.sightings import EMPTY, UNSURE

PEAK_RATES = {"conv": 3e-3, "attention": 1e-3}
SMOOTHING, SHIFT = 0.05, 4


def augment(key: Array, frames: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
    """Mirror, shift, blur, light and noise: a worn picture shall be the same to the judge."""
    n, height, width, _ = frames.shape
    dice, noise = jax.random.split(key)
    u = iter(jax.random.uniform(dice, (7, n, 1, 1, 1)))  # one draw for all: it compiles faster
    frames = jnp.where(next(u) < 0.5, frames[:, :, ::-1], frames)
    padded = jnp.pad(frames, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    corner = [(next(u).reshape(n) * (2 * SHIFT + 1)).astype(jnp.int32) for _ in range(2)]
    cut = functools.partial(jax.lax.dynamic_slice, slice_sizes=(height, width, 3))
    frames = jax.vmap(lambda image, y, x: cut(image, (y, x, 0)))(padded, *corner)
    frames += (1.2 * next(u) - 0.2).clip(0) * (blur(frames) - frames)
    frames = frames * (0.85 + 0.3 * next(u)) + 0.2 * (next(u) - 0.5)
    return frames + 0.12 * next(u) * normal(noise, frames.shape)


def blur(x: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
    """A 5 x 5 binomial filter."""
    for axis in (1, 2):
        size = x.shape[axis]
        pads = [(2, 2) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, pads, mode="edge")
        taps = (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(5))
        x = sum(w * tap for w, tap in zip((1, 4, 6, 4, 1), taps, strict=True)) / 16.0
    return x


def judge_loss(
    params: Any,
    frames: Float[Array, "n h w 3"],
    labels: dict[str, Int[Array, "n"]],
    net: str = "conv",
) -> Float[Array, ""]:
    """Cross-entropy of the heads; a frame without a subject should leave the judge undecided."""
    total = 0.0
    for head, logits in NETS[net].apply({"params": params}, frames).items():
        label, classes = labels[head], logits.shape[-1]
        target = optax.smooth_labels(jax.nn.one_hot(label, classes), SMOOTHING)
        target = jnp.where((label == EMPTY)[:, None], 1.0 / classes, target)
        losses = optax.softmax_cross_entropy(logits, target)
        known = label != UNSURE
        total += jnp.sum(losses * known) / jnp.maximum(known.sum(), 1)
    return total


def train(
    pictures: Pictures, steps: int, batch: int, seed: int, net: str = "conv", progress=tqdm
) -> Any:
    """Parameters after `steps` updates of AdamW over random batches."""
    optimizer = optax.adamw(
        optax.cosine_onecycle_schedule(steps, PEAK_RATES[net]), weight_decay=1e-3
    )
    key, params = jax.random.key(seed), init_params(jax.random.key(seed), net)
    state, rng = optimizer.init(params), np.random.default_rng(seed)

    @jax.jit
    def update(params, state, frames, labels, key):
        frames = augment(key, to_float(frames))
        loss, grads = jax.value_and_grad(judge_loss)(params, frames, labels, net)
        changes, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, changes), state, loss

    bar = progress(range(steps), desc="judge", unit="step")
    for step in bar:
        rows = rng.integers(len(pictures.frames), size=batch)
        labels = {head: getattr(pictures.labels, head)[rows] for head in HEADS}
        key_now = jax.random.fold_in(key, step)
        params, state, loss = update(params, state, pictures.frames[rows], labels, key_now)
        if step % 50 == 0:
            bar.set_postfix(loss=f"{float(loss):.3f}")
    return params
