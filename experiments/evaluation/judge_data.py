"""Labelled frames for the judge: rendered, and rendered then passed through the VAE."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from bvjax.config import ModelConfig
from bvjax.lvbench.intervals import rate
from bvjax.nets import vae
from data_pipelines.storyworld import (
    COLOURS,
    SPECIES,
    Story,
    chunk_frames,
    make_story,
    num_frames,
    render,
    truth,
)
from data_pipelines.storyworld.recast import moments
from experiments.evaluation.judge import HEADS, Judge
from experiments.evaluation.sightings import Labels, alone, label_frames, settled

CLIP = 9  # frames rendered together for training; the VAE needs 1 + 4k
USED = (2, 5, 8)  # of them, those that the judge learns from
LATENT_NOISE = 0.1  # largest noise on latents: worn pictures, somewhat as a generator makes them
UNITS = 3  # chunks of each held-out story
ENOUGH = 0.25  # share of a chunk's frames that must show the one subject for a held-out unit


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Training frames with their labels."""

    frames: UInt8[np.ndarray, "n h w 3"]
    labels: Labels

    @staticmethod
    def join(parts: list[Pictures]) -> Pictures:
        labels = labels_of([part.labels for part in parts])
        return Pictures(np.concatenate([part.frames for part in parts]), labels)


@dataclasses.dataclass(frozen=True)
class Unit:
    """A held-out chunk with one subject, as the judge meets it: frames, where to look, truth."""

    frames: UInt8[np.ndarray, "f h w 3"]  # the frame before the chunk, then the chunk
    subject_mask: Bool[np.ndarray, "f"]
    place_mask: Bool[np.ndarray, "f"]
    truth: dict[str, int]
    unseen: bool  # a (species, colour) pair that the train split never shows


@functools.partial(jax.jit, static_argnames="config")
def reconstruct(
    params: Any, config: Any, clips: UInt8[Array, "b f h w 3"], noise: Float[Array, "b"], key: Array
) -> UInt8[Array, "b f h w 3"]:
    """Through the VAE, with Gaussian noise of that standard deviation on each clip's latents."""
    latents = vae.encode(params, config, vae.to_float(clips))
    draw = jax.random.normal(key, latents.shape)
    return vae.to_uint8(
        vae.decode(params, config, latents + noise[:, None, None, None, None] * draw)
    )


def recast(story: Story, rng: np.random.Generator) -> Story:
    """The story with its species and colours drawn afresh, all 64 pairs alike.

    The train split lacks some pairs; a judge that had never seen them either would mistake its own
    ignorance for that of the model it judges.
    """
    subjects = tuple(
        dataclasses.replace(s, species=str(rng.choice(SPECIES)), colour=str(rng.choice(COLOURS)))
        for s in story.subjects
    )
    return dataclasses.replace(story, subjects=subjects)


def worn(
    rendered: UInt8[np.ndarray, "b f h w 3"],
    rng: np.random.Generator,
    number: int,
    model: ModelConfig,
    vae_params: Any,
) -> UInt8[np.ndarray, "b f h w 3"]:
    """Clips through the VAE, half of them with noise on their latents."""
    noise = rng.uniform(0, LATENT_NOISE, len(rendered)) * (rng.random(len(rendered)) < 0.5)
    key = jax.random.key(number)
    return np.asarray(reconstruct(vae_params, model.vae, rendered, noise.astype(np.float32), key))


def training_pictures(
    number: int, clips: int, model: ModelConfig, vae_params: Any, seed: int = 0
) -> Pictures:
    """Frames of `clips` random moments of train story `number`, rendered and reconstructed."""
    rng = np.random.default_rng([seed, number])
    story, c = recast(make_story(number, "train"), rng), model.chunk
    size = dict(height=c.height, width=c.width, fps=c.fps)
    starts = rng.integers(0, num_frames(story, c.fps) - CLIP, clips)
    frames = [start + i for start in starts for i in range(CLIP)]
    rendered = render(story, frames, **size).reshape(clips, CLIP, c.height, c.width, 3)
    rebuilt = worn(rendered, rng, number, model, vae_params)
    used = [start + i for start in starts for i in USED]
    labels = label_frames(story, truth(story, used, **size), c.height, c.width)
    picked = [x[:, USED, ...].reshape(-1, *x.shape[2:]) for x in (rendered, rebuilt)]
    return Pictures.join([Pictures(frames, labels) for frames in picked])


def recast_pictures(
    number: int, clips: int, model: ModelConfig, vae_params: Any, seed: int = 0
) -> Pictures:
    """First frames of train panorama `number`, `clips` of them, rendered and reconstructed.

    The data of the second judge: other pictures than the first judge's moments of stories, and casts of all pairs too.
    """
    c, rng = model.chunk, np.random.default_rng([seed, number, 1])
    size = dict(height=c.height, width=c.width, fps=c.fps)
    drawn, labels = [], []
    for moment in moments(number, clips, split="train", fps=c.fps):
        story = recast(moment.story, rng)
        drawn.append(render(story, [moment.frame], **size))
        facts = truth(story, [moment.frame], **size)
        labels.append(label_frames(story, facts, c.height, c.width))
    rendered = np.stack(drawn)
    rebuilt = worn(rendered, rng, number, model, vae_params)
    both = labels_of(labels)
    return Pictures.join([Pictures(frames[:, 0], both) for frames in (rendered, rebuilt)])


def labels_of(parts: list[Labels]) -> Labels:
    """Labels of frames one after the other."""
    names = [field.name for field in dataclasses.fields(Labels)]
    return Labels(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


PICTURES = {"conv": training_pictures, "attention": recast_pictures}  # what each judge learns from


def heldout_units(number: int, model: ModelConfig, count: int = UNITS) -> Iterator[Unit]:
    """Up to `count` random chunks of held-out story `number` that show one subject by itself."""
    story, c = make_story(number, "heldout"), model.chunk
    size = dict(height=c.height, width=c.width, fps=c.fps)
    rng = np.random.default_rng(number)
    for chunk in 1 + rng.permutation(story.n_chunks):
        span = chunk_frames(int(chunk), c.fps)
        facts = truth(story, span, **size)
        seen = [alone(facts, i, c.height, c.width) for i in range(len(story.subjects))]
        subject_index = int(np.argmax([mask.sum() for mask in seen]))
        kinds, shares = np.unique(facts.place[len(span) // 2 :], return_counts=True)
        kind = int(kinds[np.argmax(shares)])
        if count == 0 or seen[subject_index].mean() < ENOUGH:
            continue
        count -= 1
        subject = story.subjects[subject_index]
        pad = np.zeros(1, bool)  # the frame before the chunk only starts the VAE
        yield Unit(
            frames=render(story, [span[0] - 1, *span], **size),
            subject_mask=np.concatenate([pad, seen[subject_index]]),
            place_mask=np.concatenate([pad, settled(facts, kind)]),
            truth={
                "species": SPECIES.index(subject.species),
                "colour": COLOURS.index(subject.colour),
                "place": kind,
            },
            unseen=story.unseen_combos[subject_index],
        )


def judge_hits(judge: Judge, unit: Unit, frames: UInt8[np.ndarray, "f h w 3"]) -> dict[str, bool]:
    """Returns which of species, colour and place the judge names right."""
    verdict = judge.verdict(frames[None], unit.subject_mask[None], unit.place_mask[None])
    return {head: bool(verdict[head][0] == unit.truth[head]) for head in HEADS}


def score_unit(judge: Judge, unit: Unit, model: ModelConfig, vae_params: Any) -> dict[str, Any]:
    """{"rendered": hits, "reconstructed": hits, "unseen": bool} of one unit."""
    zero = jnp.zeros(1)
    rebuilt = reconstruct(vae_params, model.vae, unit.frames[None], zero, jax.random.key(0))
    return {
        "rendered": judge_hits(judge, unit, unit.frames),
        "reconstructed": judge_hits(judge, unit, np.asarray(rebuilt[0])),
        "unseen": bool(unit.unseen),
    }


def accuracy(units: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Accuracy per source and head over scored units (`score_unit`), with intervals."""
    table = {}
    for source in ("rendered", "reconstructed"):
        hits = [unit[source] for unit in units]
        table[source] = {head: rate([h[head] for h in hits]) for head in HEADS}
        table[source]["both"] = rate([h["species"] and h["colour"] for h in hits])
        unseen = [unit[source] for unit in units if unit["unseen"]]
        table[source]["both, unseen pair"] = rate([h["species"] and h["colour"] for h in unseen])
    return table
