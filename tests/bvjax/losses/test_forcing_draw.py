"""What of a training draw reaches the loss, by value: x_cond, levels, their mix, dropped captions.

The network is replaced by one that says what it was given and answers with a velocity that makes the loss
readable, so that each number here follows from the paper and not from the code.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import ChunkConfig, DiTConfig, ModelConfig, RetrievalConfig, TextConfig
from bvjax.errors import UserError
from bvjax.losses.block_forcing import BlockForcingConfig
from bvjax.losses.clip import make_clip
from bvjax.losses.forward import ClipEntries, TeacherForward
from bvjax.losses.history import HistoryConfig
from bvjax.losses.levels import LevelsConfig
from bvjax.losses.teacher_forcing import ForcingConfig, TeacherForcing
from bvjax.random import normal, purpose_key

CLIPS, CHUNKS, TEXT, DIM, LATENTS = 6, 5, 3, 8, 2
KEY = jax.random.key(5)
MODEL = ModelConfig(
    name="draw",
    chunk=ChunkConfig(height=32, width=32, fps=2, frames=8),
    text=TextConfig(dim=DIM, max_length=TEXT),
    dit=DiTConfig(dim=16, num_heads=2, num_layers=1, ffn_dim=16, freq_dim=8),
    retrieval=RetrievalConfig(num_recent=1, num_retrieved=1),
)
SEMANTIC = HistoryConfig({"semantic": 1}, anchor_drop=0, caption_drop=0, noise_chance=0)


@dataclasses.dataclass(frozen=True)
class ToldForward(TeacherForward):
    """Writes down what the network is given; its velocity is the noise of the draw."""

    seen: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def velocity(self, params, noisy, sigma, text, context, start):
        self.seen.append(dict(sigma=sigma, text=np.asarray(text), noisy=np.asarray(noisy)))
        return normal(purpose_key(KEY, "noise"), noisy.shape)

    def entries(self, params, clip, history, noise, key, levels=None):
        return ClipEntries(None, jnp.ones(1), None)

    def context(self, entries, history, target, sees=None):
        return None, self.positions(history, target)[1]


@dataclasses.dataclass(frozen=True)
class Told(TeacherForcing):
    """The loss around that forward pass."""

    told: ToldForward = dataclasses.field(default_factory=lambda: ToldForward(MODEL))

    @property
    def forward(self):
        return self.told

    @property
    def seen(self):
        return self.told.seen


def run(history=SEMANTIC, embedding=None, **forcing) -> tuple[Told, dict[str, Any]]:
    """The loss of clips whose chunk c has the value c everywhere."""
    null = np.full((TEXT, DIM), -7.0, np.float32)
    told = Told(
        MODEL,
        ForcingConfig(history=history, **{"targets_per_chunk": 1} | forcing),
        null,
        told=ToldForward(MODEL),
    )
    values = np.repeat(np.arange(1, CHUNKS + 1), LATENTS).astype(np.float32)
    latents = np.broadcast_to(
        np.concatenate([[9.0], values])[None, :, None, None, None],
        (CLIPS, 1 + CHUNKS * LATENTS, 4, 4, 16),
    )
    if embedding is None:
        embedding = np.ones((CHUNKS, DIM))
    text = np.arange(CLIPS * CHUNKS).reshape(CLIPS, CHUNKS, 1, 1) * np.ones((TEXT, DIM))
    batch = dict(
        latents=jnp.asarray(latents, jnp.float32),
        text=jnp.asarray(text, jnp.float32),
        embedding=jnp.broadcast_to(jnp.asarray(embedding, jnp.float32), (CLIPS, CHUNKS, DIM)),
        relevance=jnp.zeros((CLIPS, CHUNKS, CHUNKS)),
    )
    return told, told.loss(None, make_clip(batch, told.grid), KEY)[1]


@pytest.mark.parametrize(("fallback", "second"), [("recent", 1.0), ("fm", 2.0)])
def test_x_cond_is_the_chunk_that_the_caption_retrieves_and_not_the_recent_one(fallback, second):
    """Captions 1, 3, 5 are of one kind and 2, 4 of another; chunk c - 1 is recent, not retrieved."""
    embedding = np.where(np.arange(CHUNKS)[:, None] % 2 == 0, np.eye(DIM)[0], np.eye(DIM)[1])
    embedding[2] += 0.1 * np.eye(DIM)[2]  # caption 5 is nearer to 1 than to 3
    # With gamma=1 the loss of a chunk is the square of its x_cond.  Chunk 1 has no history and is
    # trained towards itself, and so is chunk 2 without a fallback: all it can see is chunk 1.
    x_cond = np.array([1.0, second, 1.0, 2.0, 1.0])
    block = BlockForcingConfig(target="blend", gamma=1.0, fallback=fallback)
    _, metrics = run(embedding=embedding, block=block)
    np.testing.assert_allclose(metrics["block"], np.square(x_cond).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["flow"], np.square(np.arange(1, 6)).mean(), rtol=1e-5)


def test_x_cond_is_semantic_whatever_the_target_was_shown():
    """Shown the chunk before the last (rolling), pulled to the one of its caption; without history to itself."""
    embedding = np.where(np.arange(CHUNKS)[:, None] % 3 == 0, np.eye(DIM)[0], np.eye(DIM)[1])
    rolling = HistoryConfig(chances={"rolling": 1.0}, caption_drop=0.0, noise_chance=0.0)
    block = lambda source: BlockForcingConfig(
        target="blend", gamma=1.0, fallback="fm", cond_source=source
    )
    # captions are of kinds a b b a b: chunk 4's is that of 1, chunk 5's that of 3 and 2, the later first
    for source, x_cond in (("shown", [1, 2, 1, 2, 3]), ("semantic", [1, 2, 1, 1, 3])):
        _, metrics = run(history=rolling, embedding=embedding, block=block(source))
        np.testing.assert_allclose(metrics["block"], np.square(x_cond).mean(), rtol=1e-5)
    alone = HistoryConfig(chances={"none": 1.0}, caption_drop=0.0, noise_chance=0.0)
    _, metrics = run(history=alone, embedding=embedding, block=block("semantic"))
    np.testing.assert_allclose(metrics["block"], np.square(np.arange(1, 6)).mean(), rtol=1e-5)


def test_the_noisy_chunk_is_on_the_path_to_the_blend():
    levels = LevelsConfig(role="fixed", eps_min=0.5, eps_max=0.5, mix=0.0)
    told, _ = run(levels=levels, block=BlockForcingConfig(target="blend_path", gamma=0.5))
    plain, _ = run(levels=levels, block=BlockForcingConfig(target="blend", gamma=0.5))
    moved = told.seen[0]["noisy"] - plain.seen[0]["noisy"]
    # chunk 1 has no history; each other is half way to what it retrieves, seen through sigma 0.5
    assert not np.abs(moved[:, 0]).max() and np.abs(moved[:, 1:]).max() > 0
    np.testing.assert_allclose(moved[:, 1], 0.5 * 0.5 * (1 - 2), atol=1e-5)


def test_the_sigmoid_can_reach_its_ends_and_the_shift_its_limit():
    fixed = dict(schedule="sigmoid", role="fixed", eps_min=0.2, eps_max=0.9, mix=0.0, alpha=4.0)
    bare, _ = run(levels=LevelsConfig(**fixed))
    ends, _ = run(levels=LevelsConfig(**fixed, renormalise=True))
    missed = 0.7 / (1 + np.exp(2))
    np.testing.assert_allclose(
        bare.seen[0]["sigma"][0, [0, -1]], [0.2 + missed, 0.9 - missed], rtol=1e-5
    )
    np.testing.assert_allclose(ends.seen[0]["sigma"][0, [0, -1]], [0.2, 0.9], rtol=1e-5)
    # with one u for all chunks, sigma / (1 - sigma) is the shift times u / (1 - u)
    high = dict(eps_min=0.9, eps_max=0.9, mix=0.0)
    for limit, shift in ((20.0, 9.0), (3.0, 3.0)):
        told, _ = run(levels=LevelsConfig(max_shift=limit, **high))
        one, _ = run(levels=LevelsConfig(max_shift=1.0, **high))
        odds = [t.seen[0]["sigma"] / (1 - t.seen[0]["sigma"]) for t in (told, one)]
        np.testing.assert_allclose(odds[0] / odds[1], shift, rtol=1e-4)
    with pytest.raises(UserError, match="levels.max_shift is 0.0"):
        LevelsConfig(max_shift=0.0)


@pytest.mark.parametrize(("reading", "ratio"), [("amplitude", 0.003), ("power", 0.003**0.5)])
def test_the_last_chunk_has_the_signal_to_noise_ratio(reading, ratio):
    """SNR of amplitudes is (1 - eps) / eps, of powers its square."""
    levels = LevelsConfig(role="fixed", mix=0.0, snr=0.003, snr_reading=reading)
    told, _ = run(levels=levels)
    last = told.seen[0]["sigma"][0, -1]
    assert (1 - last) / last == pytest.approx(ratio, rel=1e-4)
    np.testing.assert_allclose(told.seen[0]["sigma"][0], cosine_levels(0.1, last), rtol=1e-5)


def test_what_the_schedule_cannot_be_is_refused():
    for wrong, words in (
        (dict(snr=0.003, eps_max=0.9), "levels.snr is 0.003 and levels.eps_max 0.9"),
        (dict(snr=-1.0), "levels.snr is -1.0"),
        (
            dict(snr_reading="decibel"),
            "levels.snr_reading is 'decibel'; it can be amplitude, power",
        ),
        (dict(snr=50.0), "levels.eps_min is 0.1 and the highest level 0.0196"),
        (dict(schedule="cosin"), "levels.schedule is 'cosin'; it can be naive, linear"),
        (dict(role="median"), "levels.role is 'median'; it can be median_shift, .* context"),
    ):
        with pytest.raises(UserError, match=words):
            LevelsConfig(**wrong)


def cosine_levels(eps_min: float, eps_max: float) -> np.ndarray:
    """Eq. 11, the first chunk at eps_min and the last at eps_max."""
    rise = 0.5 * (1 - np.cos(np.pi * np.arange(CHUNKS) / (CHUNKS - 1)))
    return eps_min + (eps_max - eps_min) * rise


def test_each_target_has_the_level_of_its_own_chunk():
    levels = LevelsConfig(role="fixed", eps_min=0.2, eps_max=0.9, mix=0.0)
    told, _ = run(levels=levels)
    want = np.broadcast_to(cosine_levels(0.2, 0.9), (CLIPS, CHUNKS))
    np.testing.assert_allclose(told.seen[0]["sigma"], want, rtol=1e-5)
    order = jnp.asarray([[5, 1, 1, 3, 2]])
    got = told._sigma(KEY, order, CHUNKS)
    np.testing.assert_allclose(got[0], want[0][np.asarray(order[0]) - 1], rtol=1e-5)


@pytest.mark.parametrize("mix", [0.0, 1.0, 0.25])
def test_the_share_of_clips_with_ordinary_levels_is_mix(mix):
    """Ordinary levels are drawn for each chunk; those of the schedule are the same in all clips."""
    told, _ = run(levels=LevelsConfig(role="fixed", eps_min=0.2, eps_max=0.9, mix=mix))
    clips = 400
    target = jnp.broadcast_to(jnp.arange(1, CHUNKS + 1), (clips, CHUNKS))
    drawn = np.isclose(told._sigma(KEY, target, CHUNKS), cosine_levels(0.2, 0.9), rtol=1e-5)
    scheduled = drawn.all(axis=1)
    assert (scheduled == drawn.any(axis=1)).all()
    assert abs((~scheduled).mean() - mix) < (0.06 if 0 < mix < 1 else 1e-9)
    own = np.isclose(told.seen[0]["sigma"], cosine_levels(0.2, 0.9), rtol=1e-5).all(axis=1)
    assert own.all() if mix == 0 else not own.all()


@pytest.mark.parametrize("chance", [0.0, 1.0, 0.5])
def test_captions_are_dropped_with_their_chance_in_all_parts_of_the_loss(chance):
    history = dataclasses.replace(SEMANTIC, caption_drop=chance)
    told, _ = run(history=history, frames=32)
    block, anchor, frames = (entry["text"] for entry in told.seen)
    assert block.shape[:2] == (CLIPS, CHUNKS) and anchor.shape[:2] == (CLIPS, 1)
    assert frames.shape[:2] == (CLIPS, 8)
    own = np.arange(CLIPS * CHUNKS).reshape(CLIPS, CHUNKS, 1, 1)
    dropped = {name: text == -7.0 for name, text in (("block", block), ("frames", frames))}
    assert ((block == own) | dropped["block"]).all()
    assert ((anchor == own[:, :1]) | (anchor == -7.0)).all()
    if chance in (0.0, 1.0):
        for text in (block, anchor, frames):
            assert ((text == -7.0) == bool(chance)).all()
    else:
        for name, part in dropped.items():
            assert (part.all(axis=(2, 3)) == part.any(axis=(2, 3))).all()  # whole captions
            assert 0.25 < part.mean() < 0.75, name
